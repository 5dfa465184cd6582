"""
Single records as dbt's staging models see them.

The provider's staging views are set up once more over temporary tables in which every raw record is a slice of its own, so
what they say of a record, they say of it alone.
"""

from __future__ import annotations

import json
import re
from datetime import date
from decimal import Decimal
from typing import Any

from psycopg import sql

from ai_usage.warehouse.session import Session

Row = dict[str, Any]

# A record that does not name its account or region has those of its slice. What carries no money goes with the part's own
# currency.
OF_PART = sql.SQL(
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


class Records:
    """
    Every record of a connection, scope and day as the staging models see it alone.

    A context manager: what it sets up in PostgreSQL is temporary, and taken back at the end.
    """

    def __init__(self, session: Session, provider: str, connection_id: str, scope: str, day: date) -> None:
        self._session = session
        self._provider = provider
        self._place = {"connection_id": connection_id, "scope": scope, "usage_date": day}

    def __enter__(self) -> Records:
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
            ).format(joined=_JOINED, of_part=OF_PART, limit=sql.Literal(limit)),
            detail,
        )
        return [
            {"load_id": load_id, "record": _exact(record), "adds": _exact(adds)}
            for load_id, record, adds in rows.fetchall()
        ]

    def count_of(self, detail: Row) -> int:
        """Return how many records lead to a part."""
        statement = sql.SQL("select count(distinct slices.scope) {} where slices.stream = %(stream)s and {}")
        return self._number(statement.format(_JOINED, OF_PART), detail)

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
        return dict(self._session.execute(statement.format(_JOINED, OF_PART), detail).fetchall())

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
