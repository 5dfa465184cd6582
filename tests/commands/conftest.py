"""
A warehouse that the commands themselves have filled from the sandbox, with all ten providers in it.

Filling and building take seconds, so it is done once for a module; each test looks at one thing in it.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.__main__ import main
from ai_usage.core.http import Limits
from ai_usage.core.http_provider import HttpProvider
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.support.warehouse import Cluster, TestWarehouse

HISTORY_DAYS = 4


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The answer of a command that was asked for JSON, numbers exact."""
        return json.loads(self.out, parse_float=Decimal)


def say(*arguments: str) -> Said:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    sys.stderr.write(err.getvalue())  # for whoever reads a failure
    return Said(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Filled:
    """The warehouse, the sandbox it was filled from, and what the first sync said."""

    warehouse: TestWarehouse
    sandbox: Sandbox
    synced: Said
    day: date
    """A day that every provider has told of, and that one of them has restated since."""


@pytest.fixture(scope="module")
def filled(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Fill a warehouse by ``ai-usage sync``, twice: in between one provider changes its mind."""
    from tests.support.airflow import migrate_metadata

    now = datetime.now(UTC)
    if now.hour == 23 and now.minute >= 50:
        pytest.skip("within ten minutes of midnight UTC the sandbox and the commands could live on different days")
    migrate_metadata()
    with pytest.MonkeyPatch.context() as patch, cluster.warehouse() as warehouse:
        patch.setenv("AI_USAGE_DBT_TARGET", str(tmp_path_factory.mktemp("dbt_target")))
        for provider in providers.load_all():
            if isinstance(provider, HttpProvider):
                patch.setattr(type(provider), "limits", Limits())
        with Sandbox(today=now.date(), moto=False, history_days=HISTORY_DAYS) as sandbox:
            read = [one for one in sandbox.connections() if one["connection_id"] != "aws_bedrock_default"]
            for name, value in (warehouse.environment() | environment(read)).items():
                patch.setenv(name, value)
            patch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", _without("aws_bedrock_default"))
            synced = say("sync", "--json")
            day = now.date() - timedelta(days=2)
            sandbox.truth.restate(
                provider="aws_bedrock", account="210987654321", region="us-east-1", day=day, factor="3"
            )
            assert say("sync", "aws_bedrock_research").code == 0
            yield Filled(warehouse, sandbox, synced, day)


def _without(connection_id: str) -> str:
    listed = json.loads(os.environ["AIRFLOW_VAR_AI_USAGE_CONNECTIONS"])
    return json.dumps({name: [one for one in ids if one != connection_id] for name, ids in listed.items()})
