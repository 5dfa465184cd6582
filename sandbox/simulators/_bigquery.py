"""
A BigQuery that runs the SQL it is sent: translated by sqlglot, executed by DuckDB, over one account's billing export.

It does not recognise queries. What BigQuery adds to SQL is here too: ingestion-time partitions and what their pruning leaves
to be scanned, named parameters, the types of an answer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Lock
from typing import Any

from sandbox.truth.google_vertex_ai import Account, GoogleVertexAITruth, Line, Values, money

BYTES_PER_ROW = 6_000
"""What a row counts for in an estimate."""
SPLIT = 3
"""In how many rows of the export the day of one line comes."""
LATE = timedelta(days=3)
"""How long after the usage the last of them arrives."""

Row = dict[str, Any]

_TEXT, _NUMBER, _TIME = ("STRING", "VARCHAR"), ("FLOAT", "DOUBLE"), ("TIMESTAMP", "TIMESTAMPTZ")
Fields = Mapping[str, Any]
_LABELS: Any = [{"key": _TEXT, "value": _TEXT}]
STANDARD: Fields = {
    "billing_account_id": _TEXT,
    "service": {"id": _TEXT, "description": _TEXT},
    "sku": {"id": _TEXT, "description": _TEXT},
    "usage_start_time": _TIME,
    "usage_end_time": _TIME,
    "project": {"id": _TEXT, "number": _TEXT, "name": _TEXT, "labels": _LABELS},
    "labels": _LABELS,
    "system_labels": _LABELS,
    "location": {"location": _TEXT, "country": _TEXT, "region": _TEXT, "zone": _TEXT},
    "transaction_type": _TEXT,
    "export_time": _TIME,
    "cost": _NUMBER,
    "currency": _TEXT,
    "currency_conversion_rate": _NUMBER,
    "usage": {
        "amount": _NUMBER,
        "unit": _TEXT,
        "amount_in_pricing_units": _NUMBER,
        "pricing_unit": _TEXT,
    },
    "credits": [{"name": _TEXT, "amount": _NUMBER, "full_name": _TEXT, "id": _TEXT, "type": _TEXT}],
    "invoice": {"month": _TEXT, "publisher_type": _TEXT},
    "cost_type": _TEXT,
    "adjustment_info": {"id": _TEXT, "description": _TEXT, "mode": _TEXT, "type": _TEXT},
    "cost_at_list": _NUMBER,
}
DETAILED: Fields = {**STANDARD, "resource": {"name": _TEXT, "global_name": _TEXT}}


def fields_of(account: Account) -> Fields:
    """Return the columns of an account's export."""
    return DETAILED if account.export == "detailed" else STANDARD


def partition_column(account: Account) -> str | None:
    """Return the column that partitions an account's export; ``None`` where the time of arrival does."""
    return "usage_start_time" if account.export == "detailed" else None


def schema_of(fields: Fields) -> list[Row]:
    """Return columns as ``tables.get`` shows them."""

    def one(name: str, kind: Any) -> Row:
        if isinstance(kind, tuple):
            return {"name": name, "type": kind[0], "mode": "NULLABLE"}
        inner = kind[0] if isinstance(kind, list) else kind
        mode = "REPEATED" if isinstance(kind, list) else "NULLABLE"
        return {"name": name, "type": "RECORD", "mode": mode, "fields": schema_of(inner)}

    return [one(name, kind) for name, kind in fields.items()]


class QueryRefused(Exception):
    """BigQuery cannot run it. ``reason`` is BigQuery's word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Result:
    """An answer: columns as (name, type), rows, and the bytes that were scanned for it."""

    columns: list[tuple[str, str]]
    rows: list[tuple[Any, ...]]
    bytes: int


class Engine:
    """The billing export of one account, and what can be asked of it."""

    def __init__(self, truth: GoogleVertexAITruth, account: Account) -> None:
        self._truth = truth
        self._account = account
        self._lock = Lock()
        self._state: tuple[int, date] | None = None
        self._database: Any = None

    def estimate(self, sql: str, parameters: Mapping[str, Any]) -> int:
        """Return the bytes a query would scan, or why it cannot be run."""
        with self._lock:
            return self._prepared(sql, parameters)[1]

    def run(self, sql: str, parameters: Mapping[str, Any]) -> Result:
        """Return what the query says."""
        import duckdb

        with self._lock:
            translated, scanned = self._prepared(sql, parameters)
            try:
                cursor = self._database.execute(translated, dict(parameters))
            except duckdb.Error as error:
                raise QueryRefused("invalidQuery", f"Unrecognized name or invalid query: {error}") from None
            columns = [(name, _bigquery_type(str(kind))) for name, kind, *_ in cursor.description]
            return Result(columns, cursor.fetchall(), scanned)

    def _prepared(self, sql: str, parameters: Mapping[str, Any]) -> tuple[str, int]:
        import duckdb
        import sqlglot
        from sqlglot import exp

        self._fill()
        try:
            tree = sqlglot.parse_one(sql, read="bigquery")
        except sqlglot.errors.ParseError as error:
            raise QueryRefused("invalidQuery", f"Syntax error: {error}") from None
        names = {name.name for name in tree.find_all(exp.Parameter)}
        if names - parameters.keys():
            raise QueryRefused("invalidQuery", f"Query parameter '{min(names - parameters.keys())}' not found")
        bounds = []
        for table in list(tree.find_all(exp.Table)):
            self._locate(table)
            table.replace(exp.to_table("export"))
        for select in tree.find_all(exp.Select):
            where = select.args.get("where")
            bounds += [one for one in _conjuncts(where.this) if self._prunes(one)] if where else []
        for cast in list(tree.find_all(exp.Cast)):
            if cast.to.this in (exp.DataType.Type.BIGDECIMAL, exp.DataType.Type.DECIMAL):
                # DuckDB has 38 digits in all where BigQuery has 76, and multiplies a float before it makes it a decimal.
                cast.set("to", exp.DataType.build("DECIMAL(38, 12)", dialect="duckdb"))
                cast.set("this", exp.cast(cast.this.copy(), "text"))
        condition = exp.and_(*bounds).sql(dialect="duckdb") if bounds else "true"
        used = {name: value for name, value in parameters.items() if f"${name}" in condition}
        translated = tree.sql(dialect="duckdb")
        try:
            (found,) = self._database.execute(f"select count(*) from export where {condition}", used).fetchall()
            self._database.execute(f"explain {translated}", {name: parameters[name] for name in names})
        except duckdb.Error as error:
            raise QueryRefused("invalidQuery", f"Unrecognized name or invalid query: {error}") from None
        return translated, found[0] * BYTES_PER_ROW

    def _prunes(self, condition: Any) -> bool:
        """Whether a condition is about the partition alone; anything else is looked at row by row."""
        from sqlglot import exp

        partition = partition_column(self._account) or "_PARTITIONTIME"
        return {column.name.lower() for column in condition.find_all(exp.Column)} == {partition.lower()}

    def _locate(self, table: Any) -> None:
        account = self._account
        if (table.catalog, table.db, table.name) != (account.project, account.dataset, account.table):
            name = f"{table.catalog}:{table.db}.{table.name}"
            raise QueryRefused("notFound", f"Not found: Table {name} was not found in location {account.location}")

    def _fill(self) -> None:
        """Write the export anew if the truth has moved on."""
        import duckdb

        state = (self._truth.world.restatements.version, self._truth.world.clock.today())
        if state == self._state:
            return
        if self._database is not None:
            self._database.close()
        self._database = duckdb.connect()
        self._database.execute("set timezone = 'UTC'")
        columns = {name: _duckdb_type(kind) for name, kind in fields_of(self._account).items()}
        columns["_PARTITIONTIME"] = "TIMESTAMPTZ"
        listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        self._database.execute(f"create table export ({listed})")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "export.jsonl"
            with path.open("w") as file:
                file.writelines(json.dumps(row, default=_plain) + "\n" for row in self._rows())
            kinds = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
            self._database.execute(
                f"insert into export select * from read_json('{path}', format='newline_delimited', columns={{{kinds}}})"
            )
        self._state = state

    # ---------------------------------------------------------------- the export's rows

    def _rows(self) -> Iterator[Row]:
        account, today = self._account, self._truth.world.clock.today()
        day = self._truth.began(account)
        while day <= today:
            yield from self._others(day)
            for line in account.lines:
                now = self._truth.values(account, line, day)
                if now:
                    yield from self._line(line, day, self._truth.first_told(account, line, day), now)
            day += timedelta(days=1)

    def _line(self, line: Line, day: date, told: Values, now: Values) -> Iterator[Row]:
        """Yield a line's rows: several hours and label sets, the last of them late, and a correction if there is one."""
        arrives = min(day + LATE, self._truth.world.clock.today())
        for part in range(SPLIT):
            values = {name: _part(value, part) for name, value in told.items()}
            yield self._row(line, day, values, hour=part * 7, partition=arrives if part == SPLIT - 1 else day)
        delta = {name: now[name] - told[name] for name in now}
        if any(delta.values()):
            today = self._truth.world.clock.today()
            yield self._row(line, day, delta, hour=0, partition=today, corrects=True)

    def _row(self, line: Line, day: date, values: Values, *, hour: int, partition: date, corrects: bool = False) -> Row:
        start = datetime.combine(day, time(hour), tzinfo=UTC)
        credit = values["credit"]
        # Two entries of one type, as when two promotions pay for one row.
        credits = [
            {"name": "Sandbox", "full_name": "Sandbox", "id": "s", "type": line.credit, "amount": money(-one)}
            for one in (credit // 3, credit - credit // 3)
            if line.credit and one
        ]
        month = day if not corrects else (day.replace(day=28) + timedelta(days=4))
        exported = datetime.combine(max(partition, day), time(23 if corrects else 22), tzinfo=UTC)
        return {
            "billing_account_id": self._account.account_id,
            "service": {"id": line.service.id, "description": line.service.name},
            "sku": {"id": line.sku, "description": line.text},
            "usage_start_time": start,
            "usage_end_time": start + timedelta(hours=1),
            "project": {"id": line.project.id, "name": line.project.name, "number": "1", "labels": []}
            if line.project.id
            else None,
            "labels": [{"key": "team", "value": f"team-{hour}"}],
            "system_labels": [{"key": "goog-generativelanguage-model", "value": line.label}] if line.label else [],
            "location": {"location": line.location, "region": line.region, "country": "BE"} if line.location else None,
            "transaction_type": "GOOGLE",
            "export_time": exported,
            "cost": money(values["cost"]),
            "currency": self._account.currency,
            "currency_conversion_rate": 1,
            # Google's unit is wrong on purpose: it says requests where it counts tokens.
            "usage": {
                "amount": values["amount"],
                "unit": "requests",
                "amount_in_pricing_units": money(values["amount"] * 1000),
                "pricing_unit": "count",
            },
            "credits": credits,
            "invoice": {"month": f"{month:%Y%m}"},
            "cost_type": line.cost_type,
            "adjustment_info": {"id": "a", "type": "PRICE_CORRECTION"} if line.cost_type == "adjustment" else None,
            "cost_at_list": money(values["cost"]),
            "resource": {"name": "endpoint/1", "global_name": "//aiplatform"}
            if self._account.export == "detailed"
            else None,
            "_PARTITIONTIME": datetime.combine(partition, time(), tzinfo=UTC),
        }

    def _others(self, day: date) -> Iterable[Row]:
        """Yield what is on the same bill and no business of ours: a machine, a search engine, tax."""
        start = datetime.combine(day, time(5), tzinfo=UTC)
        for service, name, text, kind in (
            ("6F81-5844-456A", "Compute Engine", "N1 Predefined Instance Core", "regular"),
            ("74B1-77CF-C302", "Vertex AI Search", "AI Dev Tools: Claude Sonnet 4.6 Input Tokens", "regular"),
            ("0000-TAXX-0000", "Invoice", "Tax", "tax"),
        ):
            yield {
                "billing_account_id": self._account.account_id,
                "service": {"id": service, "description": name},
                "sku": {"id": "0000-0000-0000", "description": text},
                "usage_start_time": start,
                "export_time": start + timedelta(hours=9),
                "cost": 3.5,
                "currency": self._account.currency,
                "usage": {"amount": 7, "unit": "requests"},
                "credits": [],
                "invoice": {"month": f"{day:%Y%m}"},
                "cost_type": kind,
                "_PARTITIONTIME": datetime.combine(day, time(), tzinfo=UTC),
            }


def _part(value: int, part: int) -> int:
    """Return one of the rows' shares of a value; together they are the whole."""
    share = value // SPLIT
    return share if part else value - share * (SPLIT - 1)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value.isoformat()


def _duckdb_type(kind: Any) -> str:
    if isinstance(kind, tuple):
        return str(kind[1])
    if isinstance(kind, list):
        return f"{_duckdb_type(kind[0])}[]"
    return "STRUCT(" + ", ".join(f'"{name}" {_duckdb_type(inner)}' for name, inner in kind.items()) + ")"


def _bigquery_type(kind: str) -> str:
    for begins, name in (("DECIMAL", "BIGNUMERIC"), ("TIMESTAMP", "TIMESTAMP"), ("DATE", "DATE"), ("DOUBLE", "FLOAT")):
        if kind.startswith(begins):
            return name
    return "BOOLEAN" if kind == "BOOLEAN" else "INTEGER" if "INT" in kind else "STRING"


def _conjuncts(condition: Any) -> Iterator[Any]:
    from sqlglot import exp

    if isinstance(condition, exp.And):
        yield from _conjuncts(condition.left)
        yield from _conjuncts(condition.right)
    else:
        yield condition
