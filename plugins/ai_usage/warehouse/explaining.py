"""
From a row of ``marts.usage_daily`` back to the provider's own records, or to the reason why there is none.

Which records a number comes from is not guessed: the staging models of dbt are asked. Their views are set up once more over
temporary tables in which every raw record is a slice of its own, so what they say of a record, they say of it alone. What
the records say one by one is then compared with the mart. Where a provider's rules weigh records together (rates that are
rounded once a day, say), the sum can differ, and the answer says so instead of hiding it.

Everything is read in transactions that are rolled back: nothing is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from psycopg import sql

from ai_usage.warehouse.session import Session

Row = dict[str, Any]

_METERS_OF = {
    "input_tokens": (
        "uncached_input_tokens",
        "cache_read_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "cache_write_tokens",
        "unsplit_input_tokens",
    ),
    "cache_write_tokens": ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_write_tokens"),
    "net_cost": ("billed_cost", "credits"),
}
"""The measures that are sums of several meters; every other measure is the meter of its name."""

_DIMENSIONS = ("account_id", "region", "endpoint", "project_id", "credential_id", "service_tier", "raw_model_id")


@dataclass(frozen=True)
class Question:
    """
    Which rows are to be explained.

    :param model: the identity as ``usage_daily`` has it, or the id as the provider names it.
    :param account: id or name.
    :param limit: the most rows, parts of a row, and records of a part that are shown.
    """

    day: date
    provider: str | None = None
    model: str | None = None
    account: str | None = None
    region: str | None = None
    limit: int = 20


def explain(session: Session, question: Question) -> Row:
    """
    Return the rows with everything behind them, and every slice of the day that gives no row, with its reason.

    :param session: an open session under the transformer's role, which may read all layers.
    """
    found = _daily_rows(session, question)
    with_model = [row for row in found if row["model"] is not None]
    shown = with_model[: question.limit]
    rows = [_explain_row(session, row, question) for row in shown]
    gaps = list(_gaps(session, question))
    return {
        "date": question.day.isoformat(),
        "rows": rows,
        "rows_left_out": len(with_model) - len(shown),
        "without_rows": gaps,
        "why_nothing": None if rows else _why_nothing(session, question, gaps),
        "is_behind": _is_behind(session, question.day),
    }


# ---------------------------------------------------------------- from the mart to its parts


def _rows(session: Session, statement: str, values: Any = ()) -> list[Row]:
    """Return rows as the database writes them in JSON, numbers exact."""
    wrapped = sql.SQL("select row_to_json(found)::text from ({}) as found").format(sql.SQL(statement))
    cursor = session.execute(wrapped, values)
    return [json.loads(text, parse_float=Decimal) for (text,) in cursor.fetchall()]


def _daily_rows(session: Session, question: Question) -> list[Row]:
    return _rows(
        session,
        """
        select daily.* from marts.usage_daily as daily
        where daily.usage_date = %(day)s
            and (%(provider)s::text is null or daily.provider = %(provider)s)
            and (%(account)s::text is null or %(account)s in (daily.account_id, daily.account_name))
            and (%(region)s::text is null or daily.region = %(region)s)
            and (
                %(model)s::text is null
                or daily.model = %(model)s
                or exists (
                    select from marts.usage_daily_detail as detail
                    where detail.usage_date = daily.usage_date and detail.provider = daily.provider
                        and detail.account_id = daily.account_id and detail.region = daily.region
                        and detail.model = daily.model and detail.raw_model_id = %(model)s
                )
            )
        order by daily.provider, daily.account_id, daily.region, daily.model, daily.billed_currency
        """,
        vars(question),
    )


def _explain_row(session: Session, row: Row, question: Question) -> Row:
    details = _rows(
        session,
        """
        select * from (
            select detail.*, coalesce(detail.billed_currency, min(detail.billed_currency) over ()) as row_currency
            from marts.usage_daily_detail as detail
            where detail.usage_date = %(usage_date)s and detail.provider = %(provider)s
                and detail.account_id = %(account_id)s and detail.region = %(region)s and detail.model = %(model)s
        ) as detail
        where row_currency is not distinct from %(billed_currency)s
        order by connection_id, stream, scope, raw_model_id, endpoint, project_id, credential_id, service_tier
        """,
        row,
    )
    shown = details[: question.limit]
    parts = []
    for (connection_id, scope), of_scope in _grouped(shown):
        with _Records(session, row["provider"], connection_id, scope, question.day) as records:
            parts += [_explain_part(session, detail, records, question.limit) for detail in of_scope]
    measures = {name: value for name, value in row.items() if value is not None and _is_measure(name, details)}
    return {
        "row": row,
        "parts": parts,
        "parts_left_out": len(details) - len(shown),
        "measures": {
            name: {
                "value": value,
                "sum_of_parts": sum((part[name] for part in details if part[name] is not None), Decimal(0)),
            }
            for name, value in measures.items()
        },
    }


def _grouped(details: Iterable[Row]) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for detail in details:
        groups.setdefault((detail["connection_id"], detail["scope"]), []).append(detail)
    yield from groups.items()


def _is_measure(name: str, details: list[Row]) -> bool:
    """Tell whether a column of the daily row is a quantity that its parts have too."""
    return any(isinstance(part.get(name), int | Decimal) and not isinstance(part[name], bool) for part in details)


def _explain_part(session: Session, detail: Row, records: _Records, limit: int) -> Row:
    meters = _meters(session, detail)
    of_records = records.meters_of(detail)
    named = [*_DIMENSIONS, "connection_id", "stream", "scope", "billed_currency", "coverage"]
    return {
        "part": {name: detail[name] for name in named},
        "meters": meters,
        "measures": {
            name: {"value": value, "meters": {meter: meters[meter] for meter in made_of if meter in meters}}
            for name, value in detail.items()
            if value is not None and (made_of := _METERS_OF.get(name, (name,))) and set(made_of) & meters.keys()
        },
        "slice": _slice(session, detail),
        "records": records.of(detail, limit),
        "records_of_part": records.count_of(detail),
        "records_of_slice": records.count(detail["stream"]),
        # Where that is not so, the provider's rules weigh records together.
        "adds_up": {meter: of_records.get(meter) == quantity for meter, quantity in meters.items()},
    }


def _meters(session: Session, detail: Row) -> dict[str, Decimal]:
    """Return what the marts know of a part, meter by meter."""
    rows = session.execute(
        sql.SQL(
            """
        select meters.meter, sum(meters.quantity)
        from intermediate.int_usage_meters as meters
        inner join staging.stg_ops__slices as slices using (connection_id, stream, scope, usage_date)
        where meters.usage_date = %(usage_date)s and meters.connection_id = %(connection_id)s
            and meters.stream = %(stream)s and meters.scope = %(scope)s and {}
        group by meters.meter order by meters.meter
        """
        ).format(_OF_PART),
        detail,
    )
    return dict(rows.fetchall())


# A record that does not name its account or region has those of its slice. What carries no money goes with the part's own
# currency.
_OF_PART = sql.SQL(
    """
    meters.raw_model_id = %(raw_model_id)s
    and coalesce(meters.account_id, slices.account_id, slices.connection_id) = %(account_id)s
    and coalesce(meters.region, slices.region, 'unspecified') = %(region)s
    and meters.endpoint is not distinct from %(endpoint)s
    and meters.project_id is not distinct from %(project_id)s
    and meters.credential_id is not distinct from %(credential_id)s
    and meters.service_tier is not distinct from %(service_tier)s
    and coalesce(meters.currency = %(billed_currency)s, true)
    """
)

_JOINED = sql.SQL(
    """
    from pg_temp.explained_meter as meters
    inner join pg_temp.stg_ops__slices as slices on slices.scope = meters.scope
    """
)

# ---------------------------------------------------------------- from a part to its records


class _Records:
    """
    Every record of a connection, scope and day as the staging models see it alone.

    A context manager: what it sets up in PostgreSQL is temporary, and taken back at the end.
    """

    def __init__(self, session: Session, provider: str, connection_id: str, scope: str, day: date) -> None:
        self._session = session
        self._provider = provider
        self._place = {"connection_id": connection_id, "scope": scope, "usage_date": day}

    def __enter__(self) -> _Records:
        self._session.rollback()
        # Definitions of views name a schema only where it is not on this path.
        self._session.execute("set local search_path to pg_catalog")
        self._set_up_tables()
        self._set_up_views()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.rollback()

    def of(self, detail: Row, limit: int) -> list[Row]:
        """Return the records that lead to a part, each with what it adds."""
        rows = self._session.execute(
            sql.SQL(
                """
            select source.load_id, source.record::text, jsonb_object_agg(meters.meter, meters.quantity)::text
            from (
                select slices.scope::bigint as ordinal, meters.meter, sum(meters.quantity) as quantity
                {joined}
                where slices.stream = %(stream)s and {of_part}
                group by slices.scope, meters.meter
            ) as meters
            inner join pg_temp.explained_record as source on source.ordinal = meters.ordinal
            group by source.ordinal, source.load_id, source.record::text
            order by source.ordinal
            limit {limit}
            """
            ).format(joined=_JOINED, of_part=_OF_PART, limit=sql.Literal(limit)),
            detail,
        )
        return [
            {"load_id": load_id, "record": _exact(record), "adds": _exact(adds)}
            for load_id, record, adds in rows.fetchall()
        ]

    def count_of(self, detail: Row) -> int:
        """Return how many records lead to a part."""
        statement = sql.SQL("select count(distinct slices.scope) {} where slices.stream = %(stream)s and {}")
        return self._number(statement.format(_JOINED, _OF_PART), detail)

    def count(self, stream: str) -> int:
        """Return how many records the slice has."""
        statement = sql.SQL("select count(*) from pg_temp.explained_record where stream = %(stream)s")
        return self._number(statement, {"stream": stream})

    def meters_of(self, detail: Row) -> dict[str, Decimal]:
        """Return what the records of a part add up to, one by one."""
        statement = sql.SQL(
            """
            select meters.meter, sum(meters.quantity) {}
            where slices.stream = %(stream)s and {}
            group by meters.meter
            """
        )
        return dict(self._session.execute(statement.format(_JOINED, _OF_PART), detail).fetchall())

    def _number(self, statement: sql.SQL | sql.Composed, values: Row) -> int:
        row = self._session.execute(statement, values).fetchone()
        assert row is not None
        return int(row[0])

    def _set_up_tables(self) -> None:
        """Copy the records of the versions that the marts were built from, each into a slice of its own."""
        self._session.execute(
            """
            create temporary table explained_record (
                ordinal bigint generated always as identity, stream text, load_id bigint, record jsonb
            ) on commit drop;
            create temporary table stg_ops__slices on commit drop as
            select * from staging.stg_ops__slices limit 0;
            """
        )
        versions = self._session.execute(
            """
            select stream, load_id from staging.stg_ops__slices
            where connection_id = %(connection_id)s and scope = %(scope)s and usage_date = %(usage_date)s
                and load_id is not null
            order by stream
            """,
            self._place,
        ).fetchall()
        for stream, load_id in versions:
            statement = sql.SQL(
                "insert into pg_temp.explained_record (stream, load_id, record)"
                " select %s, load_id, record from raw.{} where load_id = %s"
            ).format(sql.Identifier(f"{self._provider}_{stream}"))
            self._session.execute(statement, (stream, load_id))
        self._copy_slices()
        for table in self._raw_tables():
            name = sql.Identifier(table)
            self._session.execute(
                sql.SQL(
                    """
                    create temporary table {name} on commit drop as
                    select source.ordinal as load_id, %(usage_date)s::date as usage_date, source.record
                    from pg_temp.explained_record as source where source.stream = %(stream)s
                    """
                ).format(name=name),
                {**self._place, "stream": table.removeprefix(f"{self._provider}_")},
            )
            self._session.execute(sql.SQL("create index on pg_temp.{} (load_id)").format(name))
            self._session.execute(sql.SQL("analyze pg_temp.{}").format(name))

    def _copy_slices(self) -> None:
        columns = [
            column.name for column in self._session.execute("select * from pg_temp.stg_ops__slices").description or []
        ]
        own = {"load_id": sql.SQL("source.ordinal"), "scope": sql.SQL("source.ordinal::text")}
        statement = sql.SQL(
            """
            insert into pg_temp.stg_ops__slices ({columns})
            select {chosen}
            from staging.stg_ops__slices as slices
            inner join pg_temp.explained_record as source on source.load_id = slices.load_id
            where slices.connection_id = %(connection_id)s and slices.scope = %(scope)s
                and slices.usage_date = %(usage_date)s
            """
        ).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            chosen=sql.SQL(", ").join(own.get(name, sql.Identifier("slices", name)) for name in columns),
        )
        self._session.execute(statement, self._place)
        self._session.execute("create index on pg_temp.stg_ops__slices (load_id)")
        self._session.execute("analyze pg_temp.stg_ops__slices")

    def _raw_tables(self) -> list[str]:
        rows = self._session.execute(
            "select relname::text from pg_class where relnamespace = 'raw'::regnamespace and relkind in ('r', 'p')"
            " and starts_with(relname::text, %s) order by 1",
            (f"{self._provider}_",),
        )
        return [name for (name,) in rows.fetchall()]

    def _set_up_views(self) -> None:
        """Set up the provider's staging views over the temporary tables, and keep what they say."""
        replaced = {"stg_ops__slices"}
        tables = set(self._raw_tables())

        def set_up(view: str) -> None:
            definition = self._definition(view)
            for name in re.findall(r"\bstaging\.(\w+)", definition):
                if name not in replaced and self._definition(name):
                    set_up(name)
            definition = re.sub(
                r"\b(raw|staging)\.(\w+)",
                lambda found: f"pg_temp.{found[2]}" if found[2] in replaced | tables else found[0],
                definition,
            )
            begins = sql.SQL("create temporary view {} as ").format(sql.Identifier(view))
            self._session.execute(begins + sql.SQL(definition))
            replaced.add(view)

        meters = f"stg_{self._provider}__meters"
        set_up(meters)
        kept = sql.SQL("create temporary table explained_meter on commit drop as select * from pg_temp.{}")
        self._session.execute(kept.format(sql.Identifier(meters)))
        self._session.execute("create index on pg_temp.explained_meter (scope)")
        self._session.execute("analyze pg_temp.explained_meter")

    def _definition(self, name: str) -> str:
        """Return the text of a view of dbt's staging schema; empty if it is none."""
        row = self._session.execute(
            "select pg_get_viewdef(oid) from pg_class"
            " where relnamespace = 'staging'::regnamespace and relname = %s and relkind = 'v'",
            (name,),
        ).fetchone()
        return str(row[0]).rstrip(";") if row else ""


def _exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


# ---------------------------------------------------------------- the slice behind


def _slice(session: Session, place: Row) -> Row:
    """Return everything the ledger knows about a slice: its state, who brought it and when, and what it replaced."""
    slices = _rows(
        session,
        """
        select
            slice.state, slice.error_kind, slice.failed_attempts, slice.last_attempt_at, slice.load_id,
            staged.load_id as shown_load_id, load.record_count, load.digest, load.extracted_at, load.loaded_at,
            load.run_id, extraction.extraction_id, extraction.window_first, extraction.window_last, extraction.calls,
            extraction.bytes_received, extraction.records_read
        from ops.slice as slice
        left join staging.stg_ops__slices as staged using (connection_id, stream, scope, usage_date)
        left join ops.load as load on load.load_id = coalesce(staged.load_id, slice.load_id)
        left join ops.extraction as extraction on extraction.extraction_id = load.extraction_id
        where slice.connection_id = %(connection_id)s and slice.stream = %(stream)s and slice.scope = %(scope)s
            and slice.usage_date = %(usage_date)s
        """,
        place,
    )
    known = slices[0] if slices else {"state": None}
    return known | {"earlier_versions": _earlier(session, place), "restatements": _restatements(session, place)}


def _earlier(session: Session, place: Row) -> list[Row]:
    return _rows(
        session,
        """
        select load_id, extracted_at, superseded_at, superseded_by, record_count, state, run_id, pruned_at
        from ops.load
        where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
            and usage_date = %(usage_date)s and superseded_by is not null
        order by load_id
        """,
        place,
    )


def _restatements(session: Session, place: Row) -> list[Row]:
    """Return what the mart of restatements tells of a slice; nothing where it has not been built yet."""
    if session.execute("select to_regclass('marts.restatements')").fetchone() == (None,):
        return []
    return _rows(
        session,
        """
        select * from marts.restatements
        where connection_id = %(connection_id)s and stream = %(stream)s and scope = %(scope)s
            and usage_date = %(usage_date)s
        """,
        place,
    )


# ---------------------------------------------------------------- why there is nothing


def _gaps(session: Session, question: Question) -> Iterator[Row]:
    """Yield every slice of the day that gives no row, with its reason in one sentence."""
    found = _rows(
        session,
        """
        select
            connection.provider, slice.connection_id, slice.stream, slice.scope, slice.usage_date, slice.state,
            slice.error_kind, slice.failed_attempts, slice.last_attempt_at, load.record_count, load.extracted_at,
            coalesce(scope.account_id, slice.connection_id) as account_id, scope.account_name,
            coalesce(scope.region, 'unspecified') as region, connection.disconnected_at,
            (
                select extraction.error_message from ops.extraction as extraction
                where extraction.connection_id = slice.connection_id and extraction.stream = slice.stream
                    and extraction.scope = slice.scope and extraction.outcome = 'failed'
                    and slice.usage_date between extraction.window_first and extraction.window_last
                order by extraction.extraction_id desc limit 1
            ) as last_error
        from ops.slice as slice
        inner join ops.connection as connection using (connection_id)
        inner join ops.scope as scope using (connection_id, scope)
        left join ops.load as load on load.load_id = slice.load_id
        where slice.usage_date = %(day)s and coalesce(load.record_count, 0) = 0
            and (%(provider)s::text is null or connection.provider = %(provider)s)
            and (%(account)s::text is null or %(account)s in (scope.account_id, scope.account_name, slice.connection_id))
            and (%(region)s::text is null or scope.region is null or scope.region = %(region)s)
        order by slice.connection_id, slice.stream, slice.scope
        """,
        vars(question),
    )
    for gap in found:
        yield gap | {"reason": _reason(gap)}


def _reason(gap: Row) -> str:
    asked = f"asked at {gap['extracted_at']}" if gap["extracted_at"] else "never read"
    told = f" The last attempt said: {gap['last_error']}" if gap["last_error"] else ""
    reasons = {
        "final": f"The provider was {asked} and had nothing; that is settled.",
        "confirmed_zero": f"The provider was {asked} and had nothing; that is settled.",
        "provisional": f"The provider was {asked} and had nothing yet; it may still come.",
        "missing": f"It is expected and was not read yet.{told}",
        "failed": f"Reading failed {gap['failed_attempts']} times, so nothing is known of it.{told}",
        "not_entitled": f"The account's plan does not include it.{told}",
        "outside_retention": f"It was never read, and the provider no longer tells of that day.{told}",
    }
    reason = reasons[gap["state"]]
    if gap["disconnected_at"] and gap["record_count"] is None:
        reason += f" Nobody asks any more: the connection was taken out at {gap['disconnected_at']}."
    return reason


def _why_nothing(session: Session, question: Question, gaps: list[Row]) -> str:
    """Return one sentence for whoever asked for a row and got none."""
    others = _rows(
        session,
        """
        select distinct provider, account_id, region, model from marts.usage_daily
        where usage_date = %(day)s and model is not null
            and (%(provider)s::text is null or provider = %(provider)s)
        """,
        vars(question),
    )
    wanted = {name: value for name in ("account", "region", "model") if (value := getattr(question, name))}
    if others and wanted:
        models = sorted({row["model"] for row in others})[:10]
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
        return f"Nothing was used on that day with {asked}. There is usage of: {', '.join(models)}."
    if gaps:
        return "No slice of that day has usage; what is known of each stands below."
    first, last = _days_known(session, question.provider)
    if first is None:
        whose = f"of {question.provider}" if question.provider else "at all"
        return f"Nothing was ever read {whose}. `bin/ai-usage check` tells what is connected."
    if not first <= question.day <= last:
        return f"That day was never expected: what is known reaches from {first} to {last}."
    return "No slice of that day is expected for what was asked."


def _days_known(session: Session, provider: str | None) -> tuple[Any, Any]:
    row = session.execute(
        """
        select min(usage_date), max(usage_date) from ops.slice inner join ops.connection using (connection_id)
        where %(provider)s::text is null or provider = %(provider)s
        """,
        {"provider": provider},
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _is_behind(session: Session, day: date) -> bool:
    """Tell whether something of the day was read that the marts do not show yet."""
    row = session.execute("select 1 from ops.pending_rebuild where usage_date = %s limit 1", (day,)).fetchone()
    return row is not None
