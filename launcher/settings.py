"""The environment in which every part of the project runs on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from urllib.parse import quote

from launcher import ports
from launcher.private_file import write_private
from launcher.state import Secrets, State

UI_USER = "admin"
AIRFLOW_DATABASE = "airflow"
AIRFLOW_ROLE = "airflow"
WAREHOUSE_DATABASE = "warehouse"
WAREHOUSE_LOGIN = "ai_usage"
READER_LOGIN = "ai_usage_reader"
# Every process that the launcher starts carries this, so that one that slipped away can be told from others.
INSTANCE_MARK = "AI_USAGE_INSTANCE"


@dataclass(frozen=True)
class Ports:
    """Every TCP port of one instance; all on the loopback address."""

    ui: int = 8080
    database: int = 5440
    sandbox: int = 8490
    sandbox_moto: int = 8491
    worker_log: int = 8793
    trigger_log: int = 8794
    scheduler_health: int = 8974


# Ports that the user may fix; the others follow by themselves.
_PORT_VARIABLES = {"ui": "AI_USAGE_UI_PORT", "database": "AI_USAGE_DB_PORT", "sandbox": "AI_USAGE_SANDBOX_PORT"}


def remembered_ports(state: State) -> Ports:
    """Return the ports of the last run, or the preferred ones."""
    try:
        content = json.loads(state.ports_file.read_text())
        return Ports(**{field.name: int(content.get(field.name, field.default)) for field in fields(Ports)})
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return Ports()


def choose_ports(state: State, environment: Mapping[str, str], *, keep: frozenset[str] = frozenset()) -> Ports:
    """
    Return ports that are free now: what the user asks for, else the last run's, else the preferred, else the next free.

    The ports named in ``keep`` are in use by ourselves and stay. Raises :class:`LauncherError` when a port that the
    user asks for is taken.
    """
    last = asdict(remembered_ports(state))
    chosen = {name: last[name] for name in keep}
    for name, port in last.items():
        if name in chosen:
            continue
        variable = _PORT_VARIABLES.get(name, "")
        if wanted := environment.get(variable, "").strip():
            chosen[name] = ports.require(ports.parse(wanted, variable=variable), variable=variable)
        else:
            chosen[name] = ports.choose(port, taken=frozenset(chosen.values()))
    result = Ports(**chosen)
    write_private(state.ports_file, json.dumps(asdict(result)))
    return result


def ui_url(port: int) -> str:
    """Return the UI's address."""
    return f"http://{ports.LOOPBACK}:{port}"


def project_variables(state: State, port: Ports, secrets: Secrets) -> dict[str, str]:
    """Return what the project's processes need to find each other. Holds secrets."""
    return {
        **_airflow(state, port, secrets),
        **_database(port, secrets),
        "PYTHONPATH": str(state.root / "plugins"),
    }


# Reasonable on a laptop, and nobody's business but the user's: a variable that is already set wins.
PREFERENCES = {
    "AIRFLOW__CORE__PARALLELISM": "4",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__API__INSTANCE_NAME": "AI usage",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
    # A file that somebody has edited is read at once all the same; reading all of them twice a minute is idle work.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
    # A worker that misses the moment in which its task ends looks again after this many seconds, and starts nothing before.
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    # A run that was killed leaves tasks marked as running; these find them in half a minute instead of five.
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "SCARF_ANALYTICS": "false",
    "DO_NOT_TRACK": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "OPENLINEAGE_DISABLED": "true",
}


def process_environment(variables: Mapping[str, str], inherited: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Return the whole environment of a process: what it inherits, our preferences, the project's variables.

    Left out of what is inherited: settings of Python and of PostgreSQL's clients that belong to other programs.
    """
    outside = dict(os.environ if inherited is None else inherited)
    kept = {name: value for name, value in outside.items() if not _foreign(name)}
    environment = {**PREFERENCES, **kept, **variables}
    for name in ("NO_PROXY", "no_proxy"):
        # Airflow's processes talk to each other over HTTP; a proxy cannot reach this machine's loopback.
        known = [host for host in environment.get(name, "").split(",") if host]
        environment[name] = ",".join(dict.fromkeys([*known, ports.LOOPBACK, "localhost"]))
    if sys.platform == "darwin":
        # Airflow forks; without this macOS kills a forked process at its first network call.
        environment.setdefault("OBJC_DISABLE_INITIALIZE_FORK_SAFETY", "YES")
    return environment


def _foreign(name: str) -> bool:
    python = {"PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONSAFEPATH"}
    return name in python or (name.startswith("PG") and name.isalpha())


def _airflow(state: State, port: Ports, secrets: Secrets) -> dict[str, str]:
    login = f"{AIRFLOW_ROLE}:{quote(secrets.airflow_db_password, safe='')}"
    address = f"{login}@{ports.LOOPBACK}:{port.database}/{AIRFLOW_DATABASE}"
    sections = {
        "CORE": {
            "DAGS_FOLDER": str(state.root / "dags"),
            "PLUGINS_FOLDER": str(state.root / "plugins"),
            "EXECUTOR": "ai_usage.orchestration.executor.PreloadedLocalExecutor",
            "FERNET_KEY": secrets.fernet_key,
            "AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "SIMPLE_AUTH_MANAGER_USERS": f"{UI_USER}:admin",
            "SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(state.airflow_home / "passwords.json"),
            "EXECUTION_API_SERVER_URL": f"{ui_url(port.ui)}/execution/",
        },
        "DATABASE": {
            "SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}",
            "SQL_ALCHEMY_CONN_ASYNC": f"postgresql+asyncpg://{address}",
        },
        "API": {
            "HOST": ports.LOOPBACK,
            "PORT": str(port.ui),
            "BASE_URL": ui_url(port.ui),
            "SECRET_KEY": secrets.api_secret,
        },
        "API_AUTH": {"JWT_SECRET": secrets.jwt_secret},
        "LOGGING": {
            "BASE_LOG_FOLDER": str(state.airflow_logs),
            "WORKER_LOG_SERVER_PORT": str(port.worker_log),
            "TRIGGER_LOG_SERVER_PORT": str(port.trigger_log),
        },
        "SCHEDULER": {
            "SCHEDULER_HEALTH_CHECK_SERVER_HOST": ports.LOOPBACK,
            "SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(port.scheduler_health),
        },
    }
    flat = {f"AIRFLOW__{section}__{key}": value for section, keys in sections.items() for key, value in keys.items()}
    return {"AIRFLOW_HOME": str(state.airflow_home), **flat}


def _database(port: Ports, secrets: Secrets) -> dict[str, str]:
    connection = {
        "conn_type": "postgres",
        "host": ports.LOOPBACK,
        "port": port.database,
        "schema": WAREHOUSE_DATABASE,
        "login": WAREHOUSE_LOGIN,
        "password": secrets.warehouse_password,
    }
    return {
        "AIRFLOW_CONN_AI_USAGE_WAREHOUSE": json.dumps(connection),
        "AI_USAGE_DB_HOST": ports.LOOPBACK,
        "AI_USAGE_DB_PORT": str(port.database),
        "AI_USAGE_DB_NAME": WAREHOUSE_DATABASE,
        "AI_USAGE_DB_USER": WAREHOUSE_LOGIN,
        "DBT_ENV_SECRET_AI_USAGE_DB_PASSWORD": secrets.warehouse_password,
    }
