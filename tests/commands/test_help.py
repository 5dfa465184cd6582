"""What every command of ``bin/ai-usage`` has in common, tried as processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ai_usage import commands
from tests.support.airflow import REPOSITORY


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("AI_USAGE_", "AIRFLOW_CONN_"))}
    return subprocess.run(
        [sys.executable, "-P", "-m", "ai_usage", *arguments],
        env={**known, "PYTHONPATH": str(REPOSITORY / "plugins"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_lists_every_command() -> None:
    said = run("--help")

    assert said.returncode == 0
    for name in commands.NAMES:
        assert re.search(rf"^ +{name}\b", said.stdout, re.MULTILINE), name


@pytest.mark.parametrize("name", commands.NAMES)
def test_every_command_has_examples_exit_codes_and_json(name: str) -> None:
    said = run(name, "--help")

    assert said.returncode == 0
    assert said.stderr == ""
    assert f"\n  ai-usage {name}" in said.stdout or f" ai-usage {name}\n" in said.stdout
    assert "exit codes: 0 " in said.stdout
    assert "--json" in said.stdout
    assert name in (REPOSITORY / "docs/commands.md").read_text()


@pytest.mark.parametrize("arguments", [[], ["dance"], ["explain"], ["purge"], ["export", "--format", "xml"]])
def test_a_command_that_makes_no_sense_ends_with_two_and_shows_how_it_is_used(arguments: list[str]) -> None:
    said = run(*arguments)

    assert said.returncode == 2
    assert said.stdout == ""
    assert "usage: ai-usage" in said.stderr


def test_without_a_warehouse_it_is_said_which_connection_is_missing() -> None:
    said = run("status")

    assert said.returncode == 2
    assert said.stdout == ""
    assert "ai_usage_warehouse: There is no such Airflow connection." in said.stderr
    assert "Traceback" not in said.stderr


def test_a_warehouse_that_does_not_answer_is_named_without_its_password() -> None:
    password = "canary-password-5521"
    address = f"postgresql://ai_usage:{password}@127.0.0.1:1/warehouse"

    for said in (
        run("status", AIRFLOW_CONN_AI_USAGE_WAREHOUSE=address),
        run("migrate", AI_USAGE_ADMIN_DSN=address, AI_USAGE_DB_PASSWORD="one", AI_USAGE_READER_PASSWORD="two"),
    ):
        assert said.returncode == 2
        assert said.stdout == ""
        assert "127.0.0.1" in said.stderr
        assert password not in said.stderr
        assert "Traceback" not in said.stderr
