"""Sessions with the warehouse, each under the role that fits the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from ai_usage.core.errors import WarehouseRefused, WarehouseUnavailable

Session = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Warehouse:
    """Where the warehouse is and how to log in. The password never shows in a ``repr``."""

    host: str
    port: int
    dbname: str
    user: str
    password: str = field(repr=False)
    sslmode: str = "prefer"

    @contextmanager
    def session(self, role: str, *, application: str = "ai_usage") -> Iterator[Session]:
        """
        Open a session under ``role``; commit at the end, roll back on any error.

        Raises :class:`WarehouseUnavailable` when PostgreSQL cannot be reached or goes away, :class:`WarehouseRefused` when
        it rejects a statement. Their texts carry the SQLSTATE and the primary message only, and the original error is
        not chained: PostgreSQL puts stored values into DETAIL and CONTEXT.
        """
        try:
            with self._connect(role, application) as session:
                yield session
        except psycopg.OperationalError as error:
            raise WarehouseUnavailable(
                f"PostgreSQL at {self.host}:{self.port} did not complete the work ({_gist(error)}).",
                action="Nothing was stored by halves. See that PostgreSQL is up; the next try picks up what is missing.",
            ) from None
        except psycopg.Error as error:
            raise WarehouseRefused(
                f"PostgreSQL at {self.host}:{self.port} refused a statement ({_gist(error)}).",
                action="Nothing was stored. Run the migration; if it goes on, report this text.",
            ) from None

    def _connect(self, role: str, application: str) -> Session:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            dbname=self.dbname,
            user=self.user,
            password=self.password,
            sslmode=self.sslmode,
            application_name=application,
            connect_timeout=10,
            # A database that went silent must end a task in minutes, not hours.
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=120_000,
            options=f"-c role={role} -c timezone=UTC -c lock_timeout=15min -c client_connection_check_interval=10s",
        )


def _gist(error: psycopg.Error) -> str:
    if error.sqlstate:
        return f"SQLSTATE {error.sqlstate}: {error.diag.message_primary}"
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
