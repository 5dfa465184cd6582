"""A throw-away server and migrated warehouses in it, for measuring."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from ai_usage.warehouse.migrate import migrate
from ai_usage.warehouse.roles import RolePasswords
from ai_usage.warehouse.session import Warehouse
from launcher.postgres import Postgres

PASSWORDS = RolePasswords("bench-login", "bench-reader")


@contextmanager
def throw_away_server() -> Iterator[tuple[Postgres, Path]]:
    """Run the project's own PostgreSQL, with a folder for scratch files; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ai_usage_bench_") as folder:
        server = Postgres(Path(folder) / "pg")
        server.start()
        try:
            yield server, Path(folder)
        finally:
            server.remove()


def drop_database(server: Postgres, name: str) -> None:
    """Remove a database, whoever is still connected to it."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def fresh_database(server: Postgres, name: str) -> None:
    """Make an empty database, in place of one that has this name."""
    drop_database(server, name)
    server.create_database(name)


def fresh_warehouse(server: Postgres, name: str, passwords: RolePasswords = PASSWORDS) -> Warehouse:
    """Make an empty, migrated database, in place of one that has this name."""
    fresh_database(server, name)
    migrate(server.dsn(name), passwords)
    return Warehouse("127.0.0.1", server.port, name, "ai_usage", passwords.login)
