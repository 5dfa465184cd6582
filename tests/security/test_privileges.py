"""What each role may do and may not, after the marts were built twice and the warehouse was migrated twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ai_usage.orchestration.transform import transform
from ai_usage.warehouse.migrate import migrate
from ai_usage.warehouse.roles import JANITOR, LOADER, READER, TRANSFORMER, RolePasswords
from tests.support.warehouse import LOGIN_PASSWORD, READER_PASSWORD, Cluster, TestWarehouse

REPOSITORY = Path(__file__).resolve().parents[2]
EVERYTHING = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
SCHEMAS = ("raw", "ops", "staging", "intermediate", "marts", "public")

Session = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(scope="module")
def built(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestWarehouse]:
    """A warehouse that was built, migrated again and built again."""
    target = tmp_path_factory.mktemp("dbt_target")
    with cluster.warehouse() as fresh:
        for number in range(2):
            transform(
                fresh.warehouse, f"build-{number}", project=REPOSITORY / "dbt_project", target=target, full_refresh=True
            )
            migrate(fresh.admin_dsn, RolePasswords(LOGIN_PASSWORD, READER_PASSWORD))
        yield fresh


def rights(warehouse: TestWarehouse, role: str, schema: str) -> dict[str, set[str]]:
    """Return table → what a role may do with it, or with any of its columns, where it may even look into the schema."""
    if warehouse.query("select has_schema_privilege(%s, %s, 'USAGE')", role, schema) == [(False,)]:
        return {}
    found: dict[str, set[str]] = {}
    for right in EVERYTHING:
        by_column = (
            " or has_any_column_privilege(%s, pg_class.oid, %s)"
            if right in ("SELECT", "INSERT", "UPDATE", "REFERENCES")
            else ""
        )
        rows = warehouse.query(
            f"""
            select relname from pg_class inner join pg_namespace on pg_namespace.oid = relnamespace
            where nspname = %s and relkind in ('r', 'p', 'v', 'm', 'f')
                and (has_table_privilege(%s, pg_class.oid, %s){by_column})
            """,
            *(schema, role, right, *((role, right) if by_column else ())),
        )
        for (table,) in rows:
            found.setdefault(table, set()).add(right)
    return found


def tables(warehouse: TestWarehouse, schema: str) -> set[str]:
    """Return the tables and views of a schema."""
    rows = warehouse.query(
        "select relname from pg_class inner join pg_namespace on pg_namespace.oid = relnamespace"
        " where nspname = %s and relkind in ('r', 'p', 'v', 'm', 'f')",
        schema,
    )
    return {table for (table,) in rows}


def any_of(found: dict[str, set[str]]) -> set[str]:
    """Return everything that is allowed with any of the tables."""
    return set().union(*found.values()) if found else set()


def test_the_reader_reads_every_mart_and_nothing_else(built: TestWarehouse) -> None:
    marts = rights(built, READER, "marts")
    assert marts == {table: {"SELECT"} for table in tables(built, "marts")}
    assert "usage_daily" in marts
    for schema in set(SCHEMAS) - {"marts"}:
        assert rights(built, READER, schema) == {}, schema


def test_the_loader_appends_to_raw_and_keeps_the_ledger_and_sees_nothing_of_the_rest(built: TestWarehouse) -> None:
    raw = rights(built, LOADER, "raw")
    assert set(raw) == tables(built, "raw")
    assert all(allowed == {"SELECT", "INSERT"} for allowed in raw.values())
    ledger = rights(built, LOADER, "ops")
    assert {table for table, allowed in ledger.items() if "DELETE" in allowed} == {"connection_check"}
    assert ledger["event"] == {"SELECT", "INSERT"}
    assert any_of(ledger) <= {"SELECT", "INSERT", "UPDATE", "DELETE"}
    for schema in ("staging", "intermediate", "marts", "public"):
        assert rights(built, LOADER, schema) == {}, schema


def test_the_transformer_writes_no_record_and_no_ledger(built: TestWarehouse) -> None:
    assert any_of(rights(built, TRANSFORMER, "raw")) == {"SELECT"}
    ledger = rights(built, TRANSFORMER, "ops")
    writes = {table: allowed - {"SELECT"} for table, allowed in ledger.items() if allowed - {"SELECT"}}
    assert writes == {
        "pending_rebuild": {"UPDATE", "DELETE"},
        "dbt_run": {"INSERT", "UPDATE"},
        "dbt_node_result": {"INSERT"},
        "lookback": {"INSERT", "UPDATE", "DELETE"},
    }
    assert rights(built, TRANSFORMER, "public") == {}


def test_the_janitor_deletes_and_writes_neither_a_record_nor_a_number(built: TestWarehouse) -> None:
    assert any_of(rights(built, JANITOR, "raw")) <= {"SELECT", "DELETE"}
    ledger = rights(built, JANITOR, "ops")
    writes = {table: allowed & {"INSERT", "UPDATE"} for table, allowed in ledger.items()}
    assert {table for table, allowed in writes.items() if "INSERT" in allowed} == {
        "table_figures",
        "event",
        "pending_rebuild",
    }
    assert {table for table, allowed in writes.items() if "UPDATE" in allowed} == {"load"}
    columns = built.query(
        "select attname from pg_attribute where attrelid = 'ops.load'::regclass and attnum > 0"
        " and has_column_privilege(%s, attrelid, attnum, 'UPDATE')",
        JANITOR,
    )
    assert columns == [("pruned_at",)]
    assert any_of(rights(built, JANITOR, "marts")) <= {"SELECT"}
    assert rights(built, JANITOR, "public") == {}


@pytest.mark.parametrize("role", ["ai_usage", "public"])
def test_neither_the_login_by_itself_nor_the_public_may_do_anything(built: TestWarehouse, role: str) -> None:
    for schema in SCHEMAS:
        assert rights(built, role, schema) == {}, schema
        assert built.query("select has_schema_privilege(%s, %s, 'CREATE')", role, schema) == [(False,)]


def test_no_role_is_more_than_it_says(built: TestWarehouse) -> None:
    rows = built.query(
        "select rolname, rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls or rolinherit,"
        " rolcanlogin from pg_roles where rolname like 'ai_usage%%' order by 1"
    )
    assert rows == [
        ("ai_usage", False, True),
        (JANITOR, False, False),
        (LOADER, False, False),
        (READER, False, True),
        (TRANSFORMER, False, False),
    ]
    members = built.query(
        "select roleid::regrole::text, member::regrole::text, admin_option from pg_auth_members"
        " where member::regrole::text like 'ai_usage%%' order by 1"
    )
    assert members == [(role, "ai_usage", False) for role in sorted((JANITOR, LOADER, READER, TRANSFORMER))]


def as_role(warehouse: TestWarehouse, role: str) -> Session:
    """Open a session the way the application does; the reader logs in himself."""
    if role == READER:
        return warehouse.as_reader()
    here = warehouse.warehouse
    return psycopg.connect(
        host=here.host,
        port=here.port,
        dbname=here.dbname,
        user=here.user,
        password=here.password,
        options=f"-c role={role}" if role != "ai_usage" else "",
    )


FORBIDDEN_TO_ALL = (
    "create schema mine",
    "create table public.mine (a int)",
    "create function public.lower(text) returns text language sql as 'select 1'",
    "create foreign data wrapper mine",
    "copy (select 1) to program 'id'",
    "copy (select 1) to '/var/tmp/leak'",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('.')",
    "select * from pg_authid",
    "alter role ai_usage_janitor login",
    "set session_replication_role = 'replica'",
    "select * from public.ai_usage_migration",
    "drop trigger slice_inserted on ops.slice",
    "alter table ops.event add column mine text",
    "truncate ops.event",
)
FORBIDDEN = {
    READER: (
        "set role ai_usage_loader",
        "create temporary table mine (a int)",
        "table intermediate.int_coverage_calendar",
    ),
    LOADER: (
        "delete from ops.load",
        "update ops.event set message = ''",
        "create temporary table mine (a int)",
        "table marts.usage_daily",
        "update ops.provider set label = ''",
        "update ops.stream set lookback_days = 0",
        "delete from ops.problem",
    ),
    TRANSFORMER: (
        "update ops.slice set state = 'final'",
        "delete from raw.groq_usage",
        "insert into raw.groq_usage values (1, current_date, '{}')",
        "insert into ops.event (provider, connection_id, kind, severity, message) values ('a', 'b', 'c', 'info', 'd')",
        "update ops.problem set message = ''",
    ),
    JANITOR: (
        "insert into raw.groq_usage values (1, current_date, '{}')",
        "update raw.groq_usage set record = '{}'",
        "update ops.load set record_count = 0",
        "update ops.slice set state = 'confirmed_zero'",
        "update ops.event set message = ''",
        "insert into marts.usage_daily default values",
        "delete from marts.usage_daily",
    ),
    "ai_usage": ("table ops.load", "table raw.groq_usage", "table marts.usage_daily", "set role postgres"),
}


@pytest.mark.parametrize("role", list(FORBIDDEN))
def test_what_is_not_a_roles_work_is_refused(built: TestWarehouse, role: str) -> None:
    with as_role(built, role) as session:
        for statement in (*FORBIDDEN_TO_ALL, *FORBIDDEN[role]):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement.encode())
                pytest.fail(f"{role} may: {statement}")
            session.rollback()


def test_nobody_can_slip_a_function_or_a_table_of_his_own_under_another_role(built: TestWarehouse) -> None:
    """A function that runs with its owner's rights, or a schema before pg_catalog, would be a way to another role."""
    assert (
        built.query("select proname from pg_proc where prosecdef and pronamespace::regnamespace::text !~ '^pg_'") == []
    )
    writable = {
        role: {
            schema
            for (schema,) in built.query(
                "select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"
                " and has_schema_privilege(%s, oid, 'CREATE')",
                role,
            )
        }
        for role in (LOADER, TRANSFORMER, JANITOR, READER, "ai_usage")
    }
    assert {role: schemas for role, schemas in writable.items() if schemas} == {
        TRANSFORMER: {"staging", "intermediate", "marts"}
    }
    for role in (LOADER, JANITOR):
        with as_role(built, role) as session:
            assert session.execute("show search_path").fetchone() == ('"$user", public',)
            assert session.execute("select current_schemas(false)").fetchone() == ([],)


def test_views_of_the_marts_show_the_reader_no_more_than_the_marts(built: TestWarehouse) -> None:
    with as_role(built, READER) as session:
        for table in sorted(tables(built, "marts")):
            session.execute(f'select * from marts."{table}" limit 1'.encode())
