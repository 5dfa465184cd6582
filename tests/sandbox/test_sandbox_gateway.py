"""What stands in front of a provider, and bytes that no provider would send: each fault does what its name says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
import requests

from sandbox.faults import STRANGER
from sandbox.service import Sandbox
from sandbox.simulators.openai import admin_key
from sandbox.truth.openai import COMPANY


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(moto=False) as sandbox:
        yield sandbox


def ask(sandbox: Sandbox, **options: object) -> requests.Response:
    return requests.get(
        f"{sandbox.url}/openai/organization/projects",
        headers={"Authorization": f"Bearer {admin_key(COMPANY)}"},
        timeout=10,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
def sandbox(running: Sandbox) -> Iterator[Sandbox]:
    running.requests.reset()
    yield running
    running.faults.clear()


def test_a_gateway_says_when_to_come_back_in_its_own_ways(sandbox: Sandbox) -> None:
    said = {}
    for kind in ("retry_at_date", "retry_tomorrow", "retry_nonsense"):
        number = sandbox.faults.add(kind, milliseconds=5000)
        answer = ask(sandbox)
        assert answer.status_code == 429
        said[kind] = answer.headers["Retry-After"]
        sandbox.faults.clear(number)

    wait = parsedate_to_datetime(said["retry_at_date"]) - datetime.now(UTC)
    assert timedelta(seconds=3) < wait <= timedelta(seconds=6)
    assert said["retry_tomorrow"] == "86400"
    assert not said["retry_nonsense"].isdecimal()


def test_a_gateway_fails_or_sends_away_to_a_host_that_counts_its_visitors(sandbox: Sandbox) -> None:
    sandbox.faults.add("bad_gateway", times=1)
    assert ask(sandbox).status_code == 502

    sandbox.faults.add("redirect_away")
    answer = ask(sandbox, allow_redirects=False)
    assert answer.status_code == 302
    assert sandbox.requests.count(provider=STRANGER) == 0
    requests.get(answer.headers["Location"], timeout=10)
    assert sandbox.requests.count(provider=STRANGER) == 1


def test_chunks_end_before_the_last_one(sandbox: Sandbox) -> None:
    sandbox.faults.add("chunk_cut")

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(sandbox)


def test_a_bomb_is_small_and_becomes_large(sandbox: Sandbox) -> None:
    sandbox.faults.add("gzip_bomb", size=3)

    answer = ask(sandbox)

    assert int(answer.headers["Content-Length"]) < 100_000
    assert len(answer.content) > 3 * 1024 * 1024


def test_numbers_are_none_or_endless_and_lists_are_deep(sandbox: Sandbox) -> None:
    for kind, sign in (
        ("not_a_number", b": NaN"),
        ("endless_number", b"9" * 5000),
        ("deep_nesting", b"[" * 10_000),
        ("error_object", b'"error"'),
    ):
        number = sandbox.faults.add(kind)
        content = ask(sandbox).content
        assert sign in content.replace(b'":NaN', b'": NaN'), kind
        sandbox.faults.clear(number)
    assert json.loads(ask(sandbox).content)["data"]
