"""Runs the real dbt, as the transform does: one process per build, everything by environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.dbt.bedrock_ledger import BedrockLedger
from tests.dbt.oracle import COLUMNS, Row, by_grain
from tests.support.warehouse import Cluster, TestWarehouse

PROJECT = Path(__file__).parents[2] / "dbt_project"
MARTS = ("usage_daily", "usage_daily_detail", "coverage_calendar", "usage_monthly", "dim_model", "dim_account")
WITHOUT_THE_CLOCK = {"coverage_calendar": "(to_jsonb(m) - 'age_hours')"}
"""Mart → its rows without what changes by itself."""


@dataclass(frozen=True)
class Outcome:
    """How one invocation of dbt ended."""

    exit_code: int
    output: str
    results: list[dict[str, Any]]

    @property
    def statuses(self) -> dict[str, str]:
        """Node name → status."""
        return {result["unique_id"].split(".")[2]: result["status"] for result in self.results}


@dataclass
class Dbt:
    """The project against one warehouse, and what a test asks about the result."""

    warehouse: TestWarehouse
    scratch: Path
    ledger: BedrockLedger

    def start(self, *arguments: str, target: str = "target", **environment: str) -> subprocess.Popen[str]:
        """Start dbt and do not wait for it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DBT_", "AI_USAGE_"))}
        return subprocess.Popen(
            [
                str(Path(sys.executable).parent / "dbt"),
                "--no-use-colors",
                *arguments,
                *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)),
                *("--target-path", str(self.scratch / target), "--log-path", str(self.scratch / "logs")),
            ],
            env={**inherited, **self.warehouse.environment(), "DO_NOT_TRACK": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], target: str = "target") -> Outcome:
        """Wait for a started dbt."""
        output, _ = process.communicate(timeout=300)
        artifact = self.scratch / target / "run_results.json"
        results = json.loads(artifact.read_text())["results"] if artifact.exists() else []
        return Outcome(process.returncode, output, results)

    def run(self, *arguments: str, **environment: str) -> Outcome:
        """Run dbt to its end."""
        return self.finish(self.start(*arguments, **environment))

    def transform(self, *arguments: str, **environment: str) -> Outcome:
        """Build as the runner of the transform does: what was pending before is taken off the list afterwards."""
        pending = self.ledger.pending()
        outcome = self.run("build", *arguments, **environment)
        assert outcome.exit_code == 0, outcome.output
        self.ledger.consume(pending)
        return outcome

    def usage_daily(self) -> list[Row]:
        """Return the mart, sorted, with the columns the oracle knows."""
        return sorted(self.warehouse.query(f"select {', '.join(COLUMNS)} from marts.usage_daily"), key=by_grain)

    def content(self) -> dict[str, list[str]]:
        """Return every row of every mart as PostgreSQL prints it."""
        rows = {mart: f"{WITHOUT_THE_CLOCK.get(mart, 'm')}::text" for mart in MARTS}
        return {
            mart: [one[0] for one in self.warehouse.query(f"select {row} from marts.{mart} as m order by 1")]
            for mart, row in rows.items()
        }

    def row_versions(self) -> dict[str, list[Row]]:
        """Return which version of which row every table of ours holds: any write at all shows."""
        tables = self.warehouse.query(
            "select schemaname || '.' || tablename from pg_tables"
            " where schemaname in ('staging', 'intermediate', 'marts') and tablename <> 'stg_ops__changed_days'"
        )
        return {
            table: self.warehouse.query(f"select tableoid::bigint, ctid::text, xmin::text from {table} order by ctid")
            for (table,) in tables
        }


def make_dbt(warehouse: TestWarehouse, scratch: Path) -> Dbt:
    """Return the project against a warehouse whose ledger is still empty."""
    return Dbt(warehouse, scratch, BedrockLedger(warehouse.admin_dsn))


@pytest.fixture
def dbt(warehouse: TestWarehouse, tmp_path: Path) -> Iterator[Dbt]:
    """The project against a fresh warehouse."""
    made = make_dbt(warehouse, tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture(scope="module")
def module_dbt(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dbt]:
    """The project against a warehouse that the tests of a module share."""
    with cluster.warehouse() as warehouse:
        made = make_dbt(warehouse, tmp_path_factory.mktemp("dbt"))
        yield made
        made.ledger.close()


def reader_session(dbt: Dbt) -> psycopg.Connection[tuple[Any, ...]]:
    """Log in as an analyst, each statement by itself."""
    session = dbt.warehouse.as_reader()
    session.autocommit = True
    return session
