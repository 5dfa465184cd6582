"""Writes a Bedrock ledger the way the loader does: a new load supersedes the old one, and the slice points to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

Record = dict[str, Any]

PROVIDER = "aws_bedrock"
STREAM = "metrics"
_EPOCH = datetime(2026, 6, 1, tzinfo=UTC)


def record(model_id: str, metrics: Mapping[str, int], *, namespace: str = "AWS/Bedrock") -> Record:
    """Return one raw record as the provider module yields it; loading it adds the account and the region."""
    return {
        "namespace": namespace,
        "model_id": model_id,
        "metrics": dict(metrics),
    }


@dataclass(frozen=True)
class Slice:
    """What is known about one slice; ``records`` is None unless it is loaded, ``reading`` tells the later load."""

    state: str
    records: tuple[Record, ...] | None
    reading: int


@dataclass
class BedrockLedger:
    """The ledger of one database."""

    dsn: str
    clock: int = 0
    scopes: dict[tuple[str, str], tuple[str | None, str | None]] = field(default_factory=dict)
    """(connection, region) → account id and name, as they are now."""
    slices: dict[tuple[str, str, date], Slice] = field(default_factory=dict)
    """(connection, region, day) → what is known now."""

    def __post_init__(self) -> None:
        self._session = psycopg.connect(self.dsn, autocommit=True)

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def scope(
        self, connection_id: str, region: str, account_id: str | None = None, account_name: str | None = None
    ) -> None:
        """Tell what is known about a region of a connection; also what was learnt later."""
        self._session.execute(
            "insert into ops.connection (connection_id, provider) values (%s, %s) on conflict do nothing",
            (connection_id, PROVIDER),
        )
        self._session.execute(
            "insert into ops.scope (connection_id, scope, account_id, account_name, region)"
            " values (%s, %s, %s, %s, %s) on conflict (connection_id, scope) do update"
            " set account_id = excluded.account_id, account_name = excluded.account_name",
            (connection_id, region, account_id, account_name, region),
        )
        self.scopes[connection_id, region] = (account_id, account_name)

    def load(self, connection_id: str, region: str, day: date, records: Sequence[Record], state: str = "final") -> None:
        """Load a slice, or replace it."""
        self.clock += 1
        account, _ = self.scopes[connection_id, region]
        digest = hashlib.sha256(json.dumps([self.clock, *records]).encode()).hexdigest()
        with self._session.transaction():
            extraction = self._one(
                "insert into ops.extraction"
                " (provider, connection_id, stream, scope, window_first, window_last, run_id, finished_at, outcome)"
                " values (%s, %s, %s, %s, %s, %s, 'test', now(), 'loaded') returning extraction_id",
                *(PROVIDER, connection_id, STREAM, region, day, day),
            )
            load_id = self._one("select nextval(pg_get_serial_sequence('ops.load', 'load_id'))")
            self._session.execute(
                "update ops.load set superseded_by = %s, superseded_at = now()"
                " where connection_id = %s and usage_date = %s and scope = %s and superseded_by is null",
                (load_id, connection_id, day, region),
            )
            self._session.execute(
                "insert into ops.load"
                " (load_id, provider, connection_id, stream, scope, usage_date, state, record_count, digest,"
                " extracted_at, extraction_id, run_id)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'test')",
                (
                    *(load_id, PROVIDER, connection_id, STREAM, region, day, state, len(records), digest),
                    *(_EPOCH + timedelta(minutes=self.clock), extraction),
                ),
            )
            self._session.cursor().executemany(
                "insert into raw.aws_bedrock_metrics (load_id, usage_date, record) values (%s, %s, %s)",
                [(load_id, day, json.dumps({"account_id": account, "region": region, **one})) for one in records],
            )
            self._set_slice(connection_id, region, day, state, load_id)
        self.slices[connection_id, region, day] = Slice(state, tuple(records), self.clock)

    def mark(self, connection_id: str, region: str, day: date, state: str) -> None:
        """Say that a slice is not loaded, and why."""
        self._set_slice(connection_id, region, day, state, None)
        self.slices[connection_id, region, day] = Slice(state, None, 0)

    def pending(self) -> list[int]:
        """Return what a runner of the transform notes before a build."""
        return [row[0] for row in self._session.execute("select pending_id from ops.pending_rebuild")]

    def consume(self, pending: list[int]) -> None:
        """Do what a runner of the transform does after a build that succeeded."""
        self._session.execute("delete from ops.pending_rebuild where pending_id = any(%s)", (pending,))

    def _set_slice(self, connection_id: str, region: str, day: date, state: str, load_id: int | None) -> None:
        self._session.execute(
            "insert into ops.slice (connection_id, usage_date, stream, scope, state, load_id)"
            " values (%s, %s, %s, %s, %s, %s) on conflict (connection_id, usage_date, stream, scope) do update"
            " set state = excluded.state, load_id = excluded.load_id",
            (connection_id, day, STREAM, region, state, load_id),
        )

    def _one(self, statement: str, *values: object) -> Any:
        row = self._session.execute(statement.encode(), values).fetchone()
        assert row is not None
        return row[0]
