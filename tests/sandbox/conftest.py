from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import boto3
import pytest
from botocore.config import Config

from sandbox import Sandbox

SEED = 7
TODAY = date(2026, 8, 15)
MOTO = "aws_bedrock_default"
DOUBLE = "aws_bedrock_research"

Connect = Callable[..., Any]
Call = Callable[..., Any]


@pytest.fixture(scope="session")
def sandbox_without_moto() -> Iterator[Sandbox]:
    with Sandbox(seed=SEED, today=TODAY, moto=False) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(sandbox_without_moto: Sandbox) -> Iterator[Sandbox]:
    """A sandbox that answers for the double's account only; faults and counts are fresh."""
    sandbox_without_moto.requests.reset()
    yield sandbox_without_moto
    sandbox_without_moto.faults.clear()


@pytest.fixture(scope="module")
def sandbox_with_moto() -> Iterator[Sandbox]:
    with Sandbox(seed=SEED, today=TODAY, history_days=20) as sandbox:
        yield sandbox


def connect(sandbox: Sandbox, connection_id: str, region: str, service: str = "cloudwatch", **other: Any) -> Any:
    """Return a boto3 client as the connection describes it, which never tries twice."""
    connection = next(one for one in sandbox.connections() if one["connection_id"] == connection_id)
    settings = {
        "aws_access_key_id": connection["login"],
        "aws_secret_access_key": connection["password"],
        "endpoint_url": connection["extra"]["service_config"][service]["endpoint_url"],
    }
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5, proxies={"for": "nothing"})
    return boto3.session.Session().client(service, region_name=region, **{"config": config} | settings | other)


def call(url: str, method: str = "GET", content: Any = None) -> tuple[int, Any]:
    """Return the status and the JSON of one control call."""
    request = Request(url, method=method, data=None if content is None else json.dumps(content).encode())
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(name="connect")
def connect_fixture() -> Connect:
    return connect


@pytest.fixture(name="call")
def call_fixture() -> Call:
    return call
