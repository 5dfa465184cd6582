"""
Prepare a stack: logins and databases, both migrations, the pool, the admin user. Safe to run at every start.

Run again after a change of the passwords in ``.env``, it sets them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psycopg
from psycopg import sql

from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.warehouse.migrate import migrate
from ai_usage.warehouse.roles import RolePasswords

_PATIENCE_SECONDS = 120
_AIRFLOW = "airflow"
_WAREHOUSE = "warehouse"


def main() -> int:
    """Prepare everything; 1 if something refused."""
    try:
        wait_for_database()
        create_databases()
        applied = migrate(_dsn(_WAREHOUSE), RolePasswords(_secret("WAREHOUSE_PASSWORD"), _secret("READER_PASSWORD")))
        say("warehouse: " + (", ".join(applied) or "up to date"))
        airflow("db", "migrate")
        say("Airflow's tables: up to date")
        set_pool()
        set_admin_user()
    except (UsageError, psycopg.Error) as error:
        say(f"FAILED: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        say(f"FAILED: airflow {error.cmd[1:3]} ended with {error.returncode}:\n{error.stderr[-2000:]}")
        return 1
    say("ready")
    return 0


def wait_for_database() -> None:
    """Wait until PostgreSQL lets us in."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            psycopg.connect(_dsn("postgres"), connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > until:
                raise
            say(f"waiting for PostgreSQL ({str(error).splitlines()[0]})")
            time.sleep(2)


def create_databases() -> None:
    """Create the two databases and Airflow's login; let no role into a database that is not its own."""
    with psycopg.connect(_dsn("postgres"), autocommit=True) as admin:
        role = sql.Identifier(_AIRFLOW)
        if not admin.execute("select 1 from pg_roles where rolname = %s", (_AIRFLOW,)).fetchone():
            admin.execute(sql.SQL("create role {} login").format(role))
        admin.execute(
            sql.SQL("alter role {} login password {}").format(role, sql.Literal(_secret("AIRFLOW_DB_PASSWORD")))
        )
        for name, owner in ((_AIRFLOW, role), (_WAREHOUSE, None)):
            if not admin.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
                admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
                say(f"created database {name}")
            if owner:
                admin.execute(sql.SQL("alter database {} owner to {}").format(sql.Identifier(name), owner))
        for name in ("postgres", "template1", _AIRFLOW):
            admin.execute(sql.SQL("revoke all on database {} from public").format(sql.Identifier(name)))


def set_pool() -> None:
    """Size the pool that all tasks share."""
    slots = os.environ.get("AI_USAGE_PARALLEL_TASKS", "8")
    airflow("pools", "set", "default_pool", slots, "All tasks of this stack; AI_USAGE_PARALLEL_TASKS")


def set_admin_user() -> None:
    """Create the UI's first user, or give it the password of ``.env`` again. In this process: arguments are public."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    user, password = os.environ.get("AI_USAGE_UI_USER", "admin"), _secret("UI_PASSWORD")
    with get_application_builder() as builder:
        users = builder.sm
        if known := users.find_user(username=user):
            users.reset_password(known.id, password)
        elif users.add_user(user, "AI", "usage", f"{user}@localhost.localdomain", users.find_role("Admin"), password):
            say(f"created user {user}")
        else:
            raise ConfigurationInvalid(
                f"Airflow did not take {user!r} as the name of the UI's first user.",
                action="Set AI_USAGE_UI_USER in .env to another name, and start again.",
            )


def airflow(*arguments: str) -> str:
    """Run one of Airflow's commands and return what it printed."""
    done = subprocess.run(["airflow", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def say(text: str) -> None:
    """Tell what was done."""
    print(f"airflow-init: {text}", file=sys.stderr, flush=True)


def _dsn(database: str) -> str:
    host, port = os.environ.get("AI_USAGE_DB_HOST", "postgres"), os.environ.get("AI_USAGE_DB_PORT", "5432")
    return psycopg.conninfo.make_conninfo(
        host=host, port=port, user="postgres", password=_secret("ADMIN_PASSWORD"), dbname=database
    )


def _secret(name: str) -> str:
    return os.environ[f"AI_USAGE_{name}"]


if __name__ == "__main__":
    sys.exit(main())
