"""
No secret is ever written anywhere: canaries are planted in every connection, providers repeat them, and everything that
was written is searched.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.core.errors import UsageError
from ai_usage.core.http import Limits
from ai_usage.orchestration import sync
from ai_usage.warehouse.session import Warehouse
from tests.security import canaries
from tests.security.credentials import PROVIDERS, Planted, canary, pem, plant
from tests.security.evil import FAULTS, EvilServer, token
from tests.support.warehouse import Cluster, TestWarehouse

TODAY = datetime.now(UTC).date()
START = (TODAY - timedelta(days=2)).isoformat()
QUICK = Limits(connect_timeout=2, read_timeout=2, answer_timeout=4, patience=4, attempts=2)
"""As the providers' own, but for the waiting."""


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


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every client give up soon; what it asks and how it fails stays as it is."""
    for module in ("core.http.client", "providers._cloudwatch", "providers._authress_landing"):
        monkeypatch.setattr(f"ai_usage.{module}.full_jitter", lambda *_, **__: 0.0)
    for provider in providers.load_all():
        if hasattr(provider, "limits"):
            monkeypatch.setattr(type(provider), "limits", QUICK)
    for module in ("providers._azure", "providers.authress"):
        monkeypatch.setattr(f"ai_usage.{module}.Limits", lambda: QUICK)
    google = import_module("ai_usage.providers._google_vertex_ai")
    bounds = google.Bounds(answer=3, patience=0.3, pause=0.05, deadline=4)
    monkeypatch.setattr(google, "Bounds", lambda: bounds)


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
            sync.extract_and_load(provider, warehouse, piece, run_id)
        except Exception as error:
            raised.append(error)
    return raised


@pytest.mark.parametrize("name", PROVIDERS)
def test_no_fault_of_a_provider_brings_a_secret_to_light(
    name: str, warehouse: TestWarehouse, logged: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, haystack = io.StringIO(), {}
    secrets = {token(fault) for fault in FAULTS if fault != "no_token"}
    with EvilServer([]) as server, redirect_stdout(printed), redirect_stderr(printed):
        for fault in FAULTS:
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
