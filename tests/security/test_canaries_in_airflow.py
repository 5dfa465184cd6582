"""
The same search where Airflow and dbt write: logs of tasks, XCom, rendered templates, the metadata database, dbt's
artifacts, the arguments of processes, messages to people. Connections lie in Airflow's own database, as in production.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from sandbox.connections import Connection
from sandbox.service import Sandbox
from tests.core.http_server import Server, answer
from tests.security import canaries
from tests.security.credentials import Planted, canary, plant
from tests.security.evil import EvilServer, token
from tests.support.airflow import migrate_metadata, run_dag
from tests.support.mail_server import MailServer
from tests.support.warehouse import LOGIN_PASSWORD, READER_PASSWORD, TestWarehouse

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("without_waiting"),
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes as Linux shows them"),
]

START = (datetime.now(UTC).date() - timedelta(days=2)).isoformat()
FAULTS = {"openai": "status_401", "azure_openai": "status_403"}
GOOD = "openai_default"
HOOK = "/services/T0Canary/B0Canary/AddressOfTheWebhookIsASecret0123456789"
MAIL_LOGIN = ("ai-usage", canary("mail"))


@pytest.fixture
def stored(warehouse: TestWarehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TestWarehouse]:
    """A warehouse, and Airflow's metadata database to keep connections in, encrypted as the installation has it."""
    from airflow.models.crypto import get_fernet

    migrate_metadata()
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
    get_fernet.cache_clear()
    sources = {name: [f"{name}_canary"] for name in FAULTS}
    monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", json.dumps(sources))
    monkeypatch.setenv("AI_USAGE_DBT_TARGET", str(tmp_path / "dbt_target"))
    for name, value in warehouse.environment().items():
        monkeypatch.setenv(name, value)
    yield warehouse
    from airflow.models.connection import Connection as Kept
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(Kept).delete(synchronize_session=False)
    monkeypatch.undo()
    get_fernet.cache_clear()


def keep(connections: Mapping[str, Mapping[str, Any]]) -> None:
    """Store connections as Airflow's form does."""
    from airflow.models.connection import Connection as Kept
    from airflow.utils.session import create_session

    with create_session() as session:
        for name, fields in connections.items():
            session.add(Kept(conn_id=name, **{**fields, "extra": json.dumps(fields.get("extra") or {})}))


def of_people(webhook: Server, mail: MailServer) -> dict[str, dict[str, Any]]:
    """Return the connections with which people are told."""
    return {
        "ai_usage_webhook": {"conn_type": "http", "password": f"{webhook.url}{HOOK}"},
        "ai_usage_smtp": {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": mail.port,
            "login": MAIL_LOGIN[0],
            "password": MAIL_LOGIN[1],
            "extra": {"from": "a@example.com", "to": "b@example.com", "disable_tls": True, "disable_ssl": True},
        },
    }


def of_sandbox(found: list[Connection]) -> dict[str, Any]:
    """Return the fields of the one connection that works."""
    (good,) = [one for one in found if one["connection_id"] == GOOD]
    return {name: value for name, value in good.items() if name not in ("provider", "connection_id")}


def told(webhook: Server, mail: MailServer) -> dict[str, str]:
    """Return what people were told, and nothing of how it was delivered."""
    mails = [part for _, _, one in mail.mails for part in (str(one), *(p.get_content() for p in one.iter_parts()))]
    return {
        "webhook": "\n".join(request.body.decode() for request in webhook.requests),
        "mail": "\n".join(map(str, mails)),
    }


def written(warehouse: TestWarehouse, folder: Path) -> dict[str, str]:
    """Return everything that was written where this project, Airflow and dbt write."""
    home = Path(os.environ["AIRFLOW_HOME"])
    found = canaries.files(home) | canaries.files(folder) | canaries.tables(warehouse) | canaries.definitions(warehouse)
    return found | canaries.metadata(home / "airflow.db")


def test_neither_airflow_nor_dbt_writes_a_secret_anywhere(
    stored: TestWarehouse, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    today = datetime.now(UTC).date()
    with (
        EvilServer([]) as server,
        Sandbox(today=today, history_days=3, moto=False) as sandbox,
        Server([answer(200)]) as webhook,
        MailServer(login=MAIL_LOGIN) as mail,
        canaries.Processes() as processes,
    ):
        planted = {name: plant(name, server.url(fault), START) for name, fault in FAULTS.items()}
        good = of_sandbox(sandbox.connections())
        keep({one.connection_id: one.fields for one in planted.values()} | {GOOD: good} | of_people(webhook, mail))
        server.secrets = [secret for one in planted.values() for secret in one.secrets]
        states = {name: run_dag(f"{name}_usage").state for name in FAULTS}
        marts = run_dag("usage_marts")
    printed = capfd.readouterr()
    haystack = written(stored, tmp_path) | told(webhook, mail)
    haystack |= {"printed": printed.out + printed.err, "log": caplog.text, "arguments": "\n".join(processes.arguments)}

    assert states == dict.fromkeys(FAULTS, "failed")
    assert marts.state == "success"
    assert canaries.hits(haystack, secrets(planted, good)) == []
    # The haystack is the right one: it holds what is no secret.
    for place, straw in {
        "metadata.dag_run": "azure_openai_usage",
        "metadata.task_instance": "openai_canary",
        "metadata.xcom": "azure_openai_canary",
        "metadata.rendered_task_instance_fields": "openai_canary",
        "metadata.connection": "openai_canary",
        "raw.openai_completions": "gpt",
        "ops.event": "openai_canary",
        "marts.usage_daily": "openai",
        str(tmp_path / "dbt_target" / "manifest.json"): "usage_daily",
        "arguments": "dbt",
        "printed": "openai_canary",
        "webhook": "credential_rejected",
        "mail": "openai_canary",
    }.items():
        assert straw in haystack.get(place, ""), place


def secrets(planted: Mapping[str, Planted], good: Mapping[str, Any]) -> set[str]:
    """Return everything that nobody may ever read."""
    found = {secret for one in planted.values() for secret in one.secrets} | {str(good["password"])}
    return found | {*map(token, FAULTS.values()), LOGIN_PASSWORD, READER_PASSWORD, HOOK, MAIL_LOGIN[1]}


def test_a_secret_in_any_of_these_places_is_found(tmp_path: Path) -> None:
    secret = canary("places")
    database = tmp_path / "airflow.db"
    with sqlite3.connect(database) as session:
        session.execute("create table xcom (value json)")
        session.execute("create table task_instance (executor_config blob)")
        session.execute("create table deleted (value text)")
        # So long that a page ends somewhere within it, wherever pages end.
        session.execute(
            "insert into xcom values (?)", (json.dumps(["x" * 4000, *[f"{secret}{n}" for n in range(200)]]),)
        )
        session.execute("insert into task_instance values (?)", (f"\xff{secret}".encode(),))
        session.execute("insert into deleted values (?)", (f"before {secret}",))
    session.close()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "attempt=1.log").write_text(json.dumps({"event": f"Bearer {secret}"}))
    with canaries.Processes() as processes:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)", f"--password={secret}"])
        for _ in range(100):
            if any(secret in one for one in processes.arguments):
                break
            time.sleep(0.1)
        child.kill()
        child.wait()
    haystack = canaries.metadata(database) | canaries.files(tmp_path / "logs")
    haystack |= {"arguments": "\n".join(processes.arguments)}

    found = {hit.partition(": ")[0] for hit in canaries.hits(haystack, [secret])}

    assert found == {
        "metadata.xcom",
        "metadata.task_instance",
        "metadata.deleted",
        "metadata, as bytes",
        str(tmp_path / "logs" / "attempt=1.log"),
        "arguments",
    }
