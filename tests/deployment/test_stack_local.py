"""
One server with the LocalExecutor: from nothing to the truth, then what an operator does in the life of a stack.

The tests of this file build on each other, in their order.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.stack import Deployed, Failed, eventually

pytestmark = pytest.mark.timeout(3600)  # building the images may take long


def test_from_a_clone_to_the_truth_of_all_providers(local: Deployed) -> None:
    began = time.monotonic()
    local.await_truth(900)
    print(f"truth of all providers {time.monotonic() - began:.0f} s after healthy")
    assert len({row["provider"] for row in local.select("select provider from marts.usage_daily")}) == 10


def test_the_ui_answers_and_wants_a_login(local: Deployed) -> None:
    status, _ = local.ui("/api/v2/monitor/health")

    assert status == 200
    with pytest.raises(OSError, match="401"):
        local.ui("/api/v2/connections")


def test_the_project_s_own_command_line_works_in_a_container(local: Deployed) -> None:
    assert "aws_bedrock" in local.execute("airflow-scheduler", "ai-usage", "status")


def test_an_account_is_connected_checked_and_read_from_the_shell(local: Deployed) -> None:
    """As docs/deploy.md tells it, with an account that the sandbox has."""

    def shell(*command: str) -> str:
        return local.execute("airflow-scheduler", *command)

    offered = {one["connection_id"]: one for one in local.ask("/_connections")["connections"]}["openai_lab"]
    shell("airflow", "connections", "delete", "openai_lab")
    with pytest.raises(Failed, match="openai_lab"):
        shell("ai-usage", "check", "openai_lab")

    login = ["--conn-type", "ai_usage_openai", "--conn-password", offered["password"], "--conn-host", offered["host"]]
    shell("airflow", "connections", "add", "openai_lab", *login, "--conn-extra", json.dumps(offered["extra"]))
    shell("ai-usage", "check", "openai_lab")
    shell("airflow", "dags", "trigger", "openai_usage", "--run-id", "by_hand")

    ended = "select state from dag_run where run_id = 'by_hand' and state in ('success', 'failed')"
    eventually(lambda: local.select(ended, "airflow"), 300, local.describe)
    assert local.select(ended, "airflow") == [{"state": "success"}]
    told = json.loads(shell("ai-usage", "status", "--json"))
    assert {one["state"] for one in told if one["connection_id"] == "openai_lab"} == {"connected"}


def test_nobody_is_root_and_nothing_can_be_written_but_data(local: Deployed) -> None:
    for service in local.compose("ps", "--services").split():
        for container in local.containers(service):
            if not local.inspect(container)["State"]["Running"]:
                continue
            here = local.inspect(container)
            assert local.run(["docker", "exec", container, "id", "-u"]).strip() != "0", service
            assert here["HostConfig"]["ReadonlyRootfs"], service
            assert here["HostConfig"]["CapDrop"] == ["ALL"], service
            assert not here["HostConfig"]["Privileged"], service
            for path in ("/opt", "/usr/bin", "/etc"):
                with pytest.raises(Failed):
                    local.run(["docker", "exec", container, "touch", f"{path}/planted"])


def test_only_the_ui_has_a_port_outside(local: Deployed) -> None:
    bound: dict[tuple[str, str], Any] = {}
    for service in local.compose("ps", "--services").split():
        for container in local.containers(service):
            ports = local.inspect(container)["HostConfig"]["PortBindings"]
            bound |= {(service, inner): outer for inner, outer in (ports or {}).items()}

    assert bound == {("airflow-apiserver", "8080/tcp"): [{"HostIp": "127.0.0.1", "HostPort": str(local.port)}]}


def test_the_database_cannot_reach_the_world(local: Deployed) -> None:
    (container,) = local.containers("postgres")
    networks = local.inspect(container)["NetworkSettings"]["Networks"]

    assert [name.removeprefix(f"{local.project}_") for name in networks] == ["inside"]
    network = local.run(["docker", "network", "inspect", "--format", "{{.Internal}}", *networks])
    assert network.strip() == "true"


def test_the_image_has_no_tools_to_build_or_install_with(local: Deployed) -> None:
    tools = ("gcc", "cc", "g++", "make", "ld", "git", "pip", "pip3", "uv")
    found = local.execute(
        "airflow-scheduler", "sh", "-c", f"for one in {' '.join(tools)}; do command -v $one; done; true"
    )
    modules = "import importlib.util as u; print([m for m in ('pip', 'ensurepip', 'uv') if u.find_spec(m)])"

    assert found == ""
    assert local.execute("airflow-scheduler", "python", "-c", modules).strip() == "[]"


def test_no_image_holds_a_secret(local: Deployed, tmp_path: Path) -> None:
    secrets = {value for name, value in local.env().items() if name.endswith(("PASSWORD", "SECRET", "KEY"))}
    assert len(secrets) == 8
    for image in ("ai-usage:local", "ai-usage-postgres:local", "ai-usage-sandbox:local"):
        described = local.run(["docker", "history", "--no-trunc", image]) + local.run(["docker", "inspect", image])
        assert not [secret for secret in secrets if secret in described]
    looked = "import os, sys\nneedles = [line.strip().encode() for line in sys.stdin if line.strip()]\nhits = []\n" + (
        "for root, _, names in os.walk('/opt/ai-usage'):\n"
        "    for name in names:\n"
        "        content = open(os.path.join(root, name), 'rb').read()\n"
        "        hits += [name for needle in needles if needle in content]\n"
        "print(hits, len(needles))"
    )
    assert local.execute("airflow-scheduler", "python", "-c", looked, content="\n".join(secrets)).strip() == "[] 8"
    names = local.execute("airflow-scheduler", "find", "/opt/ai-usage", "-name", ".env*", "-o", "-name", ".git*")
    assert names == ""


def test_a_killed_database_comes_back_and_the_truth_with_it(local: Deployed) -> None:
    assert local.restate(factor=3) > 10
    local.trigger_all()
    local.await_work()

    local.kill("postgres")

    eventually(local.is_healthy, 300, local.describe)
    local.await_truth(900)


def test_an_upgrade_keeps_the_data_and_goes_on(local: Deployed) -> None:
    before = local.select("select count(*) as n from ops.extraction")[0]["n"]
    with (local.folder / ".env").open("a") as file:
        file.write("AI_USAGE_VERSION=next\n")

    local.script("upgrade", str(local.folder / "before-upgrade"))

    running = local.inspect(local.containers("airflow-scheduler")[0])["Config"]["Image"]
    assert running == "ai-usage:next"
    assert (local.folder / "before-upgrade" / "warehouse.dump").stat().st_size > 0
    assert local.select("select count(*) as n from ops.extraction")[0]["n"] >= before
    assert local.restate(factor=2) > 10
    local.trigger_all()
    local.await_truth(900)


def test_a_new_fernet_key_leaves_no_connection_behind(local: Deployed) -> None:
    old = local.env()["AI_USAGE_FERNET_KEY"]
    stored = local.select("select conn_id, password from connection order by 1", "airflow")

    local.script("rotate-fernet-key")

    new = local.env()["AI_USAGE_FERNET_KEY"]
    assert new != old and "," not in new
    again = local.select("select conn_id, password from connection order by 1", "airflow")
    assert [one["conn_id"] for one in again] == [one["conn_id"] for one in stored]
    assert not {one["password"] for one in again if one["password"]} & {one["password"] for one in stored}
    local.execute("airflow-scheduler", "ai-usage", "check", "openai_default")


def test_new_passwords_shut_the_old_ones_out(local: Deployed) -> None:
    before = local.env()

    local.script("rotate-passwords")

    after = local.env()
    changed = {name for name in before if before[name] != after[name]}
    passwords = {"ADMIN_PASSWORD", "AIRFLOW_DB_PASSWORD", "WAREHOUSE_PASSWORD", "READER_PASSWORD"}
    assert changed == {f"AI_USAGE_{name}" for name in passwords}
    assert local.mart() == local.truth()
    logins = {"postgres": "ADMIN", "airflow": "AIRFLOW_DB", "ai_usage": "WAREHOUSE", "ai_usage_reader": "READER"}
    for user, name in logins.items():
        database = "airflow" if user == "airflow" else "warehouse"
        for env, is_let_in in ((before, False), (after, True)):
            assert can_log_in(local, user, database, env[f"AI_USAGE_{name}_PASSWORD"]) == is_let_in, user
    assert not list(local.folder.glob(".env.*"))


def test_a_backup_brings_back_what_was_lost(local: Deployed) -> None:
    true, backup = local.truth(), local.folder / "backup"
    local.script("backup", str(backup))
    assert oct(backup.stat().st_mode & 0o777) == "0o700"
    with pytest.raises(Failed, match="never written over another"):
        local.script("backup", str(backup))
    connections = local.select("select conn_id from connection order by 1", "airflow")
    grants = local.select(GRANTS)
    local.compose("down", "--volumes")
    (local.folder / ".env").rename(local.folder / "env.lost")

    local.script("restore", str(backup), "--yes")

    assert local.env() == {**local.env(), **env_of(backup / "env")}
    assert local.mart() == true
    assert local.select("select conn_id from connection order by 1", "airflow") == connections
    assert local.select(GRANTS) == grants
    assert not can_log_in(local, "airflow", "warehouse", local.env()["AI_USAGE_AIRFLOW_DB_PASSWORD"])
    local.restate(factor=5)
    local.trigger_all()
    local.await_truth(900)


def test_a_stack_without_its_secrets_does_not_start(local: Deployed) -> None:
    local.compose("stop", "--timeout", "10")
    (local.folder / ".env").rename(local.folder / "env.away")
    try:
        with pytest.raises(Failed, match=r"is not set; run docker/make-env"):
            local.compose("up", "-d")
    finally:
        (local.folder / "env.away").rename(local.folder / ".env")


@pytest.mark.parametrize("weak", ["changeme-changeme-changeme", "short", "airflow-airflow-airflow"])
def test_a_stack_with_a_well_known_secret_does_not_start(local: Deployed, weak: str) -> None:
    command = ["docker", "run", "--rm", "-e", f"AI_USAGE_AIRFLOW_DB_PASSWORD={weak}", "ai-usage:next", "true"]
    with pytest.raises(Failed, match=r"AI_USAGE_AIRFLOW_DB_PASSWORD (looks like a default|is empty or shorter)"):
        local.run(command)


GRANTS = """
select n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner) as owner, c.relacl::text as acl
from pg_class as c inner join pg_namespace as n on n.oid = c.relnamespace
where n.nspname in ('ops', 'raw', 'core', 'marts', 'staging') order by 1, 2
"""


def env_of(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)


def can_log_in(stack: Deployed, user: str, database: str, password: str) -> bool:
    login = f"read -r PGPASSWORD; export PGPASSWORD; exec psql -h postgres -U {user} -d {database} -qc 'select 1'"
    try:
        stack.execute("postgres", "sh", "-c", login, content=password + os.linesep)
    except Failed:
        return False
    return True
