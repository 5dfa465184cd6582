"""AWS accounts of the sandbox, as connections a provider can use without Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import boto3
from botocore.config import Config

from ai_usage.core.contract import Connection, Memory, Record, Scope
from ai_usage.core.slices import Window
from ai_usage.providers.aws_bedrock import AwsBedrock
from sandbox.service import Sandbox
from sandbox.simulators.aws_bedrock import access_key, secret_key
from sandbox.truth.aws_bedrock import PRODUCTION, RESEARCH, Account, AwsBedrockTruth

TODAY = date(2026, 8, 15)


class Clients:
    """boto3 clients with one key pair, all calling one address."""

    def __init__(self, url: str, key: str, secret: str, token: str | None = None, attempts: int = 2) -> None:
        self._session = boto3.session.Session(
            aws_access_key_id=key, aws_secret_access_key=secret, aws_session_token=token
        )
        self._url = url
        self._config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=5, read_timeout=5, proxies={}
        )
        self._made: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str) -> Any:
        """Return a client, the same one each time."""
        if (service, region) not in self._made:
            self._made[service, region] = self._session.client(
                service, region_name=region, endpoint_url=self._url, config=self._config
            )
        return self._made[service, region]


def provider() -> AwsBedrock:
    """Return the provider, on the sandbox's day and without pauses."""
    return AwsBedrock(today=lambda: TODAY, sleep=lambda _: None)


def connection(sandbox: Sandbox, account: Account = RESEARCH, **changes: Any) -> Connection:
    """Return the sandbox's connection to an account; ``changes`` go to its options, or to its clients by name."""
    found = next(
        one
        for one in sandbox.connections()
        if one["provider"] == "aws_bedrock" and one["extra"]["account_id"] == account.account_id
    )
    options: dict[str, Any] = dict(found["extra"])
    url = options.pop("service_config")["cloudwatch"]["endpoint_url"]
    for_clients = {name: changes.pop(name) for name in ("key", "secret", "token", "attempts") if name in changes}
    clients = Clients(url, **({"key": access_key(account), "secret": secret_key(account)} | for_clients))
    memory = changes.pop("memory", None) or Memory()
    options = {name: value for name, value in (options | changes).items() if value is not None}
    return Connection(found["connection_id"], options, clients, memory=memory)


def extract(one: Connection, region: str, first: date, last: date, memory: Memory | None = None) -> list[Record]:
    """Return the records of a window in a region."""
    if memory is not None:
        one.memory = memory
    bedrock = provider()
    return list(bedrock.extract(one, bedrock.streams[0], Scope(region, region=region), Window(first, last)))


def expected(sandbox: Sandbox, account: Account, region: str, first: date, last: date) -> list[Record]:
    """Return what the truth says the records must be."""
    truth = sandbox.truth.of("aws_bedrock")
    assert isinstance(truth, AwsBedrockTruth)
    found: list[tuple[tuple[Any, ...], Mapping[str, int]]] = [
        ((day, endpoint.namespace, endpoint.model_id), values)
        for endpoint in account.endpoints_in(region)
        for day in Window(first, last).days
        if (values := truth.values(account, endpoint, day))
    ]
    return [
        Record(
            day,
            {
                "account_id": account.account_id,
                "region": region,
                "namespace": namespace,
                "model_id": model_id,
                "metrics": dict(values),
            },
        )
        for (day, namespace, model_id), values in sorted(found, key=lambda one: one[0])
    ]


__all__ = ["PRODUCTION", "RESEARCH", "TODAY", "Clients", "connection", "expected", "extract", "provider"]
