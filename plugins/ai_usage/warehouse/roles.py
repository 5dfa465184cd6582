"""
The database identities, each with exactly the rights it needs.

``ai_usage_loader`` writes ``raw`` and the ledger, ``ai_usage_transformer`` (dbt) reads them and owns the marts,
``ai_usage_janitor`` deletes what may be deleted and writes no number, ``ai_usage_reader`` reads marts and nothing else. The
application logs in as ``ai_usage``, which has no rights of its own and takes on one of these four per session; the
reader also logs in itself, because dashboards do.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

LOADER = "ai_usage_loader"
TRANSFORMER = "ai_usage_transformer"
JANITOR = "ai_usage_janitor"
READER = "ai_usage_reader"
LOGIN = "ai_usage"


@dataclass(frozen=True)
class RolePasswords:
    """Passwords of the two roles that can log in."""

    login: str
    reader: str


def ensure_roles(admin: psycopg.Connection[tuple[object, ...]], passwords: RolePasswords) -> None:
    """
    Create the roles where they are missing and set their passwords.

    Needs a superuser; or a role with CREATEROLE whose ``createrole_self_grant`` is ``set, inherit``.
    """
    for role in (LOADER, TRANSFORMER, JANITOR, READER, LOGIN):
        exists = admin.execute("select 1 from pg_roles where rolname = %s", (role,)).fetchone()
        if not exists:
            admin.execute(sql.SQL("create role {} nologin noinherit").format(sql.Identifier(role)))
    for role, password in ((LOGIN, passwords.login), (READER, passwords.reader)):
        admin.execute(
            sql.SQL("alter role {} login noinherit password {}").format(sql.Identifier(role), sql.Literal(password))
        )
    admin.execute(
        sql.SQL("grant {}, {}, {}, {} to {}").format(
            *map(sql.Identifier, (LOADER, TRANSFORMER, JANITOR, READER, LOGIN))
        )
    )


def ensure_database_settings(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    """Set what every session of this database relies on: UTC days, and no right for the public to connect."""
    row = admin.execute("select current_database()").fetchone()
    assert row is not None
    database = sql.Identifier(str(row[0]))
    admin.execute(sql.SQL("alter database {} set timezone to 'UTC'").format(database))
    admin.execute(sql.SQL("revoke all on database {} from public").format(database))
    admin.execute(
        sql.SQL("grant connect on database {} to {}, {}").format(database, *map(sql.Identifier, (LOGIN, READER)))
    )
    admin.execute(sql.SQL("grant temporary on database {} to {}").format(database, sql.Identifier(TRANSFORMER)))
