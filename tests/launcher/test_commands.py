from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.processes import is_running
from launcher.state import State

TOOLS = ["airflow", "dbt", "psql", "ai-usage"]


def call(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_in_a_fresh_clone_says_what_to_do_first(checkout: Path, tool: str) -> None:
    done = call(checkout / "bin" / tool, "--version", folder=checkout)
    assert done.returncode == 1
    assert "make run" in done.stderr
    assert not (checkout / ".state").exists()


def test_stopping_and_cleaning_a_fresh_clone_is_no_error(checkout: Path) -> None:
    stopped = call("make", "stop", folder=checkout)
    cleaned = call("make", "clean", folder=checkout)
    assert (stopped.returncode, cleaned.returncode) == (0, 0), stopped.stderr + cleaned.stderr
    assert "There is nothing to remove." in cleaned.stdout


def test_cleaning_takes_a_half_built_environment_away(checkout: Path) -> None:
    (checkout / ".state/venv/bin").mkdir(parents=True)
    done = call("make", "clean", folder=checkout)
    assert done.returncode == 0, done.stderr
    assert not (checkout / ".state").exists()


def test_help_is_what_make_does_by_itself_and_lists_every_target(checkout: Path) -> None:
    said = call("make", folder=checkout).stdout
    declared = re.search(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert declared is not None
    listed = re.findall(r"^ +([a-z-]+) +\S", said, re.MULTILINE)
    assert sorted(listed) == sorted(declared.group(1).split())


@pytest.mark.parametrize(
    ("typed", "wanted"), [("bench", ""), ("bench load", "load"), ("bench load transform", "load transform")]
)
def test_words_after_bench_are_handed_on(checkout: Path, typed: str, wanted: str) -> None:
    done = call("make", "-n", *typed.split(), folder=checkout)
    assert done.returncode == 0, done.stderr
    assert f"-m bench {wanted}".strip() in " ".join(done.stdout.split())


def test_tools_bring_up_what_they_need_and_take_it_down_again(checkout: Path, place: Path) -> None:
    """From nothing but the environment, from another folder, in a path with a space; twice."""
    (checkout / ".state").mkdir()
    (checkout / ".state/venv").symlink_to(sys.prefix)
    elsewhere = place / "else where"
    elsewhere.mkdir()
    # What lies where one happens to stand must not be taken for a module of ours.
    for name in ("launcher.py", "psycopg.py", "airflow.py"):
        (elsewhere / name).write_text("raise SystemExit('the wrong module')")
    psql = checkout / "bin/psql"

    first = call(psql, "-Atc", "select current_user, current_database()", folder=elsewhere)
    assert (first.returncode, first.stdout.strip()) == (0, "ai_usage_reader|warehouse"), first.stderr
    assert "started it for this command" in first.stderr

    denied = call(psql, "-c", "select * from ops.load", folder=elsewhere, PGUSER="postgres")
    assert denied.returncode == 1
    assert "permission denied" in denied.stderr
    admin = call(psql, "--admin", "-Atc", "select rolsuper from pg_roles where rolname = user", folder=elsewhere)
    assert admin.stdout.strip() == "t", admin.stderr

    version = call(checkout / "bin/airflow", "config", "get-value", "core", "dags_folder", folder=elsewhere)
    assert version.stdout.strip().splitlines()[-1] == str(checkout / "dags"), version.stderr

    lines = [line for line in (checkout / ".state/pg/server.log").read_text().splitlines() if "ready to accept" in line]
    assert len(lines) == 4
    pids = [int(word) for line in lines for word in re.findall(r"\[(\d+)\]", line)[:1]]
    assert not any(is_running(pid) for pid in pids)
    State(checkout).remove()
    assert not (checkout / ".state").exists()
