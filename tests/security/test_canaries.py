"""
No secret is ever written anywhere: canaries are planted in every connection, providers repeat them, and everything that
was written is searched.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ai_usage import connection_types, providers
from ai_usage.core.contract import Memory, Provider
from ai_usage.core.errors import UsageError
from ai_usage.orchestration import sync
from ai_usage.orchestration.clients import open_connection
from ai_usage.orchestration.work import Part, Work
from ai_usage.warehouse import ledger
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Warehouse
from tests.security import canaries
from tests.security.conftest import forget
from tests.security.credentials import LIKELY, PROVIDERS, canary, pem, plant
from tests.security.evil import FAULTS, EvilServer, token
from tests.support.warehouse import Cluster, TestWarehouse

pytestmark = pytest.mark.usefixtures("without_waiting")

START = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()


@pytest.fixture(scope="module")
def warehouse(cluster: Cluster) -> Iterator[TestWarehouse]:
    """One warehouse for all that goes wrong in this module."""
    with cluster.warehouse() as fresh:
        yield fresh


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that any logger says, with tracebacks, from the lowest level on."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def run(provider_name: str, warehouse: Warehouse, connection_id: str, run_id: str) -> list[BaseException]:
    """Check, plan, extract and load, as the tasks of a DAG do; return what was raised."""
    provider = providers.load(provider_name)
    raised: list[BaseException] = []
    try:
        work = sync.plan(provider, warehouse, [connection_id], sync.Request(first=START))
    except Exception as error:
        return [error]
    for piece in work:
        try:
            sync.extract_and_load(provider, warehouse, shortened(piece), run_id)
        except Exception as error:
            raised.append(error)
    return raised


def shortened(piece: Work) -> Work:
    """Return a day of the first and the last stream of what is to be read: those between them share their client."""
    parts: list[Part] = []
    for part in piece["parts"]:
        streams = list(part["windows"])
        windows = {name: part["windows"][name][-1:] for name in (*streams[:1], *streams[-1:])}
        parts.append({"scope": part["scope"], "windows": windows})
    return {"connection_id": piece["connection_id"], "label": piece["label"], "parts": parts}


SHARED_CLIENT = ("openai", "groq", "fireworks", "openrouter", "replicate", "authress")
"""Read through the clients of anthropic and aws_bedrock, which meet every fault; how they read an answer is their own."""
THEIRS = ("status_400", "status_401", "status_403", "not_json", "payload")


def faults_of(name: str) -> tuple[str, ...]:
    """Return the faults that a provider is tried with."""
    return THEIRS if name in SHARED_CLIENT else FAULTS


@pytest.mark.parametrize("name", PROVIDERS)
def test_no_fault_of_a_provider_brings_a_secret_to_light(
    name: str, warehouse: TestWarehouse, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.StringIO()
    haystack: dict[str, str] = {}
    secrets = {token(fault) for fault in FAULTS if fault != "no_token"}
    with EvilServer([]) as server, redirect_stdout(printed), redirect_stderr(printed):
        for fault in faults_of(name):
            forget()
            planted = dataclasses.replace(plant(name, server.url(fault), START), connection_id=f"{name}_{fault}")
            secrets |= set(planted.secrets)
            server.secrets = [*planted.secrets, *([] if fault == "no_token" else [token(fault)])]
            for variable, value in planted.environment().items():
                monkeypatch.setenv(variable, value)
            raised = run(name, warehouse.warehouse, planted.connection_id, f"{name}/{fault}")
            assert fault == "payload" or raised, f"{fault} did not keep {name} from being read"
            haystack |= {f"{fault}: raised {n}": canaries.told(error) for n, error in enumerate(raised)}
            for error in raised:
                assert isinstance(error, UsageError), f"{fault}: {error!r}"
                assert error.kind != "unexpected", f"{fault}: {canaries.told(error)}"
        assert server.received, "the provider was never asked"
    haystack |= {"log": logged.getvalue(), "printed": printed.getvalue()} | canaries.tables(warehouse)

    assert canaries.hits(haystack, secrets) == []
    assert name in haystack["ops.event"], "nothing was told of it at all"


FIELDS = {
    "aws_bedrock": ("regions", "region_name", "account_id", "account_name", "endpoint_url", "config_kwargs", "verify"),
    "azure_openai": ("tenantId", "scopes", "subscriptionId", "account_name", "login_url", "cloud_environment"),
    "google_vertex_ai": ("dataset", "table", "export", "location", "max_gigabytes", "api_endpoint", "keyfile_dict"),
}


def fields_of(name: str) -> list[str]:
    """Return the settings of a provider that could be mistaken for the place of the key."""
    if name in FIELDS:
        return list(FIELDS[name])
    return [field for field in connection_types.load(name)["conn-fields"] if field not in ("start_date", "api_key")]


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_key_in_a_field_that_is_not_for_keys_is_not_repeated(
    name: str, warehouse: TestWarehouse, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, refusals = LIKELY[name], 0
    haystack: dict[str, str] = {}
    provider = providers.load(name)
    with EvilServer([]) as server:
        planted = plant(name, server.url("status_401"), START)
        whole = planted.fields["extra"]
        spoilt: dict[str, dict[str, Any]] = {field: {"extra": whole | {field: key}} for field in fields_of(name)}
        spoilt |= {
            "start_date": {"extra": whole | {"start_date": key}},
            "no JSON": {"extra": f'{{"api_key": "{key}"'},
            "user of the address": {"host": f"https://user:{quote(key)}@api.example.com"},
            "query of the address": {"host": f"https://api.example.com?key={quote(key)}"},
            "wrong type": {"conn_type": "http", "password": key},
            "key in pieces": {"password": f"{key}\nX-Evil: 1"},
        }
        for field, changes in spoilt.items():
            forget()
            one = dataclasses.replace(planted, connection_id=f"{name}_spoilt", fields=planted.fields | changes)
            for variable, value in one.environment().items():
                monkeypatch.setenv(variable, value)
            for error in refusals_of(provider, warehouse.warehouse, one.connection_id, plans=field == "start_date"):
                assert isinstance(error, UsageError), f"{field}: {error!r}"
                assert error.kind != "unexpected", f"{field}: {error!r}"
                haystack[f"{field}: {error!r}"] = canaries.told(error)
                refusals += error.kind == "configuration_invalid"
    haystack |= {"log": logged.getvalue()} | canaries.tables(warehouse)

    assert canaries.hits(haystack, [key]) == []
    assert refusals >= 3


def refusals_of(provider: Provider, warehouse: Warehouse, connection_id: str, *, plans: bool) -> list[Exception]:
    """Verify a connection, look for its scopes, plan it if asked to; return what was raised on the way."""

    def register() -> None:
        scopes = provider.scopes(open_connection(provider, connection_id, Memory()))
        with warehouse.session(LOADER) as session:
            ledger.register_scopes(session, provider, connection_id, scopes)

    def plan() -> None:
        for piece in sync.plan(provider, warehouse, [connection_id], sync.Request()):
            sync.extract_and_load(provider, warehouse, piece, "spoilt")

    raised: list[Exception] = []
    for step in (lambda: sync.verify(provider, warehouse, connection_id), register, *([plan] if plans else [])):
        try:
            step()
        except Exception as error:
            raised.append(error)
    return raised


def test_the_search_finds_whatever_is_planted(warehouse: TestWarehouse, tmp_path: Path, logged: io.StringIO) -> None:
    secret = canary("self-test")
    planted = sorted(canaries.forms(secret) | canaries.forms(pem("self-test")))
    for form in planted:
        warehouse.query(
            "insert into ops.event (provider, connection_id, kind, severity, message) values ('a', 'b', 'c', 'info', %s)",
            f"before{form}after",
        )
    warehouse.query(
        "insert into raw.groq_usage values (0, current_date, %s::jsonb)", json.dumps({"a": [{"b": f"x{secret}x"}]})
    )
    with sqlite3.connect(tmp_path / "metadata.db") as database:
        database.execute("create table xcom (value blob)")
        database.execute("insert into xcom values (?)", (f"x{secret}x".encode(),))
    logging.getLogger("a.library").debug("headers: %s", {"x": secret})
    inner = KeyError(f"x{secret}")

    def found(haystack: Mapping[str, str]) -> set[str]:
        return {hit.partition(":")[0] for hit in canaries.hits(haystack, [secret, pem("self-test")])}

    try:
        assert found(canaries.tables(warehouse)) == {"ops.event", "raw.groq_usage"}
        stored = canaries.tables(warehouse)["ops.event"]
        assert [form for form in planted if form not in stored] == []
        assert found(canaries.files(tmp_path)) == {str(tmp_path / "metadata.db")}
        assert found({"log": logged.getvalue()}) == {"log"}
        try:
            raise ValueError("outer") from inner
        except ValueError as error:
            assert found({"error": canaries.told(error)}) == {"error"}
        assert found({"base64": base64.b64encode(b"some thing " + secret.encode() + b" else").decode()}) == {"base64"}
        assert found({"innocent": "Canary 0123456789"}) == set()
    finally:
        warehouse.query("delete from ops.event")
        warehouse.query("delete from raw.groq_usage")
