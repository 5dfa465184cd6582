"""
Bring a warehouse to the version this code expects: roles, ordered SQL files, one raw table per stream.

Run as ``python -m ai_usage.warehouse.migrate``. Reads ``AI_USAGE_ADMIN_DSN`` (an administrator of the database),
``AI_USAGE_DB_PASSWORD`` and ``AI_USAGE_READER_PASSWORD`` from the environment; never from the command line, where other
users of the machine could read them.
"""

from __future__ import annotations

import os
import sys
from importlib.resources import files

import psycopg
from psycopg import sql

from ai_usage import providers
from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.warehouse.roles import JANITOR, LOADER, TRANSFORMER, RolePasswords, ensure_database_settings, ensure_roles

Admin = psycopg.Connection[tuple[object, ...]]

# Any constant works; it only has to be the same in every process that migrates.
_MIGRATION_LOCK = 7_301_194_421


def migrate(dsn: str, passwords: RolePasswords) -> list[str]:
    """
    Apply what is missing, in one transaction, and return the names of what was applied.

    Safe to run at any time and from several processes at once. Refuses a warehouse that a newer version has migrated.
    """
    with psycopg.connect(dsn) as admin:
        admin.execute("select pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        ensure_roles(admin, passwords)
        ensure_database_settings(admin)
        applied = _apply_files(admin)
        _keep_promises(admin)
        return applied + _create_raw_tables(admin)


def migration_files() -> dict[str, str]:
    """Return the migrations, name → SQL, in order."""
    folder = files("ai_usage.warehouse") / "migrations"
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return {entry.name: entry.read_text() for entry in sorted(found, key=lambda entry: entry.name)}


def _apply_files(admin: Admin) -> list[str]:
    admin.execute(
        "create table if not exists public.ai_usage_migration"
        " (name text primary key, applied_at timestamptz not null default now())"
    )
    done = {str(name) for (name,) in admin.execute("select name from public.ai_usage_migration")}
    known = migration_files()
    if unknown := sorted(done - known.keys()):
        raise ConfigurationInvalid(
            f"The warehouse was migrated by a newer version of this project ({unknown[-1]}).",
            action="Upgrade this installation, or restore the backup that belongs to it.",
        )
    missing = [name for name in known if name not in done]
    for name in missing:
        admin.execute(known[name].encode())
        admin.execute("insert into public.ai_usage_migration (name) values (%s)", (name,))
    return missing


def _keep_promises(admin: Admin) -> None:
    """Write down what this version's providers say about themselves, for the marts to compare the days with."""
    known = providers.load_all()
    admin.execute("delete from ops.stream")
    for provider in known:
        admin.execute(
            """
            insert into ops.provider (provider, label, category) values (%s, %s, %s)
            on conflict (provider) do update set label = excluded.label, category = excluded.category
            """,
            (provider.name, provider.label, provider.category),
        )
        for stream in provider.streams:
            admin.execute(
                """
                insert into ops.stream (provider, stream, summary, settle, lookback_days, retention_days,
                    newest_days_ago, is_usage)
                values (%s, %s, %s, %s, %s, %s, %s, %s)
                """,
                (
                    provider.name,
                    stream.name,
                    stream.summary,
                    stream.settle,
                    stream.lookback_days,
                    stream.retention_days,
                    stream.newest_days_ago,
                    stream.is_usage,
                ),
            )
    admin.execute("delete from ops.provider where provider <> all (%s)", ([provider.name for provider in known],))


def _create_raw_tables(admin: Admin) -> list[str]:
    """Create the raw table of every stream that has none: a new provider needs no migration of its own."""
    created = []
    for provider in providers.load_all():
        for stream in provider.streams:
            table = provider.table(stream)
            if admin.execute("select to_regclass(%s)", (f"raw.{table}",)).fetchone() == (None,):
                create_raw_table(admin, table, f"{provider.label}: {stream.summary}")
                created.append(f"raw.{table}")
            admin.execute(
                sql.SQL("grant select, delete on raw.{} to {}").format(sql.Identifier(table), sql.Identifier(JANITOR))
            )
    return created


def create_raw_table(admin: Admin, table: str, comment: str) -> None:
    """Create the raw table of a stream, with the rights of those who write and read it."""
    # Every reader comes through the ledger, so load_id is the only index: it grows at its right edge, which costs a load
    # almost nothing, and one day of history costs one day.
    statement = sql.SQL(
        """
        create table raw.{table} (load_id bigint not null, usage_date date not null, record jsonb not null);
        comment on table raw.{table} is {comment};
        create index {index} on raw.{table} (load_id);
        grant select, insert on raw.{table} to {loader};
        grant select on raw.{table} to {transformer};
        """
    )
    admin.execute(
        statement.format(
            table=sql.Identifier(table),
            index=sql.Identifier(f"{table}_load_idx"),
            comment=sql.Literal(comment),
            loader=sql.Identifier(LOADER),
            transformer=sql.Identifier(TRANSFORMER),
        )
    )


def _from_environment(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ConfigurationInvalid(f"{name} is not set.", action="Set it in the environment of this command.")
    return value


def main() -> int:
    """Migrate the warehouse that the environment names."""
    try:
        passwords = RolePasswords(
            login=_from_environment("AI_USAGE_DB_PASSWORD"), reader=_from_environment("AI_USAGE_READER_PASSWORD")
        )
        applied = migrate(_from_environment("AI_USAGE_ADMIN_DSN"), passwords)
    except UsageError as error:
        print(f"Migration refused: {error}", file=sys.stderr)
        return 2
    except psycopg.OperationalError as error:
        print(f"The warehouse does not answer: {error}", file=sys.stderr)
        return 1
    print("Warehouse: " + (", ".join(applied) if applied else "up to date"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
