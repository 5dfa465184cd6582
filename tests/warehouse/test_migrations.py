"""Migrations: once, in order, at any time, from several processes; and the rights they leave behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.warehouse.migrate import migrate, migration_files
from ai_usage.warehouse.roles import LOADER, TRANSFORMER, RolePasswords
from tests.support.warehouse import LOGIN_PASSWORD, READER_PASSWORD, Cluster, TestWarehouse

PASSWORDS = RolePasswords(LOGIN_PASSWORD, READER_PASSWORD)


def test_a_second_migration_changes_nothing(warehouse: TestWarehouse) -> None:
    assert migrate(warehouse.admin_dsn, PASSWORDS) == []


def test_several_processes_may_migrate_a_new_database_at_once(cluster: Cluster) -> None:
    cluster.postgres.create_database("empty")
    results: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: results.append(migrate(cluster.postgres.dsn("empty"), PASSWORDS)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 4
    assert sum(bool(result) for result in results) == 1


def test_a_warehouse_of_a_newer_version_is_refused_and_left_alone(warehouse: TestWarehouse) -> None:
    warehouse.query("insert into public.ai_usage_migration (name) values ('9999_from_the_future.sql')")

    with pytest.raises(ConfigurationInvalid, match="newer version"):
        migrate(warehouse.admin_dsn, PASSWORDS)


def test_a_migration_that_fails_leaves_the_warehouse_as_it_was(
    warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = migration_files() | {"9998_broken.sql": "create table ops.half (a int); select 1 / 0;"}
    monkeypatch.setattr("ai_usage.warehouse.migrate.migration_files", lambda: broken)

    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(warehouse.admin_dsn, PASSWORDS)

    assert warehouse.query("select to_regclass('ops.half')") == [(None,)]


READER_FORBIDDEN = [
    "select * from raw.aws_bedrock_metrics",
    "select * from ops.event",
    "create table marts.mine (a int)",
    "create table public.mine (a int)",
    "create schema mine",
    "set role ai_usage_loader",
    "create temporary table mine (a int)",
]
LOADER_FORBIDDEN = [
    "create table marts.mine (a int)",
    "create table raw.mine (a int)",
    "drop table raw.aws_bedrock_metrics",
    "delete from raw.aws_bedrock_metrics",
    "update raw.aws_bedrock_metrics set usage_date = current_date",
    "delete from ops.load",
    "update ops.event set message = ''",
    "delete from ops.event",
    "delete from ops.pending_rebuild",
    "insert into ops.dbt_run (invocation_id, command) values ('x', 'y')",
    "select * from public.ai_usage_migration",
]
TRANSFORMER_FORBIDDEN = [
    "insert into raw.aws_bedrock_metrics values (1, current_date, '{}')",
    "delete from raw.aws_bedrock_metrics",
    "update ops.slice set state = 'final'",
    "insert into ops.event (provider, connection_id, kind, severity, message) values ('a', 'b', 'c', 'info', 'd')",
    "create table ops.mine (a int)",
    "create schema mine",
]


@pytest.fixture
def reader(warehouse: TestWarehouse) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    warehouse.query("create table marts.sample as select 1 as a")
    warehouse.query("grant select on marts.sample to ai_usage_reader")
    with warehouse.as_reader() as session:
        yield session


@pytest.mark.parametrize("statement", READER_FORBIDDEN)
def test_a_reader_may_read_marts_and_nothing_else(
    reader: psycopg.Connection[tuple[object, ...]], statement: str
) -> None:
    assert reader.execute("select a from marts.sample").fetchall() == [(1,)]
    reader.commit()

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(statement.encode())


@pytest.mark.parametrize(
    ("role", "statement"),
    [(LOADER, statement) for statement in LOADER_FORBIDDEN]
    + [(TRANSFORMER, statement) for statement in TRANSFORMER_FORBIDDEN],
)
def test_a_role_can_do_no_more_than_its_work(warehouse: TestWarehouse, role: str, statement: str) -> None:
    with warehouse.as_application(role) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(statement.encode())


def test_the_login_alone_may_do_nothing(warehouse: TestWarehouse) -> None:
    with warehouse.as_application() as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("select * from ops.load")
