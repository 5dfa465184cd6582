"""Real warehouses for tests: one server, and databases made from a migrated template."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql

from ai_usage.warehouse.migrate import migrate
from ai_usage.warehouse.roles import READER, RolePasswords, ensure_database_settings
from ai_usage.warehouse.session import Warehouse
from launcher.postgres import Postgres

LOGIN_PASSWORD = "login-password-of-tests"
READER_PASSWORD = "reader-password-of-tests"
_TEMPLATE = "warehouse_template"


@dataclass(frozen=True)
class TestWarehouse:
    """A migrated database, seen by its administrator, by the application and by a reader."""

    __test__ = False

    admin_dsn: str
    warehouse: Warehouse

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator and return its rows."""
        with psycopg.connect(self.admin_dsn) as session:
            cursor = session.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def as_application(self, role: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
        """Log in as Airflow's tasks and dbt do, and take on a role of theirs; without one, the login's own rights."""
        return self._log_in(self.warehouse.user, self.warehouse.password, f"-c role={role}" if role else "")

    def as_reader(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Log in as an analyst."""
        return self._log_in(READER, READER_PASSWORD)

    def _log_in(self, user: str, password: str, options: str = "") -> psycopg.Connection[tuple[Any, ...]]:
        here = self.warehouse
        return psycopg.connect(
            host=here.host, port=here.port, dbname=here.dbname, user=user, password=password, options=options
        )

    def environment(self) -> dict[str, str]:
        """Return the variables that make Airflow tasks and dbt use this warehouse."""
        here = self.warehouse
        return {
            "AIRFLOW_CONN_AI_USAGE_WAREHOUSE": (
                f"postgresql://{here.user}:{here.password}@{here.host}:{here.port}/{here.dbname}"
            ),
            "AI_USAGE_DB_HOST": here.host,
            "AI_USAGE_DB_PORT": str(here.port),
            "AI_USAGE_DB_NAME": here.dbname,
            "AI_USAGE_DB_USER": here.user,
            "DBT_ENV_SECRET_AI_USAGE_DB_PASSWORD": here.password,
        }

    def slice_states(self) -> dict[tuple[str, date], str]:
        """Return scope and day → state."""
        return {
            (scope, day): state for scope, day, state in self.query("select scope, usage_date, state from ops.slice")
        }


class Cluster:
    """A PostgreSQL server with a migrated template database."""

    def __init__(self, folder: Path) -> None:
        self.postgres = Postgres(folder)
        self._taken: set[int] = set()

    def __enter__(self) -> Cluster:
        self.postgres.start()
        self.postgres.create_database(_TEMPLATE)
        migrate(self.postgres.dsn(_TEMPLATE), RolePasswords(LOGIN_PASSWORD, READER_PASSWORD))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.postgres.stop(mode="immediate")
        self.postgres.remove()

    @contextlib.contextmanager
    def warehouse(self, like: TestWarehouse | None = None) -> Iterator[TestWarehouse]:
        """
        Make a database from the template, or as a copy of another one; drop it afterwards.

        The next one has the same name: dbt parses the project anew for each address that it has not seen before.
        """
        number = next(one for one in itertools.count(1) if one not in self._taken)
        self._taken.add(number)
        name = f"warehouse_{number}"
        self._execute("create database {} template {}", name, like.warehouse.dbname if like else _TEMPLATE)
        with psycopg.connect(self.postgres.dsn(name)) as admin:
            ensure_database_settings(admin)  # a template does not hand on what is set for the database as a whole
        try:
            yield TestWarehouse(
                admin_dsn=self.postgres.dsn(name),
                warehouse=Warehouse("127.0.0.1", self.postgres.port, name, "ai_usage", LOGIN_PASSWORD),
            )
        finally:
            self._execute("drop database {} with (force)", name)
            self._taken.discard(number)

    def set_aside(self, warehouse: TestWarehouse, name: str) -> TestWarehouse:
        """Keep a copy as a template under a name of its own, which it has until the server ends."""
        self._execute("create database {} template {}", name, warehouse.warehouse.dbname)
        return TestWarehouse(self.postgres.dsn(name), replace(warehouse.warehouse, dbname=name))

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as session:
            session.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
