from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.private_file import read_variables, write_variables
from launcher.settings import Ports, choose_ports, process_environment, project_variables, remembered_ports
from launcher.state import State

ODD = {
    "SPACES": "a  b ",
    "QUOTES": 'it\'s "quoted"',
    "DOLLAR": "$HOME `id` $(id) \\",
    "LINES": "first\nsecond\n",
    "EMPTY": "",
    "HASH": "#not a comment=1",
    "WIDE": "Prüfung €",
}


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_odd_values_survive_the_file_and_are_not_evaluated(place: Path) -> None:
    write_variables(place / "env", ODD)
    assert read_variables(place / "env") == ODD
    assert (place / "env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", sorted(ODD))
def test_a_shell_that_sources_the_file_gets_the_same_values(place: Path, name: str) -> None:
    write_variables(place / "env", ODD)
    script = f'. "$1"; printf %s "${name}"'
    shell = subprocess.run(["sh", "-c", script, "sh", place / "env"], capture_output=True, check=True)
    assert shell.stdout.decode() == ODD[name]


def test_a_name_that_a_shell_would_take_for_a_command_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="not the name"):
        write_variables(place / "env", {"A;rm -rf": "1"})


def test_secrets_are_made_once_and_kept_in_a_private_file(state: State) -> None:
    first = state.secrets()
    assert State(state.root).secrets() == first
    assert len(set(vars(first).values())) == len(vars(first))
    assert (state.folder / "secrets").stat().st_mode & 0o777 == 0o600


def test_what_the_user_prefers_wins_and_what_holds_the_parts_together_does_not_give_way(state: State) -> None:
    variables = project_variables(state, Ports(), state.secrets())
    environment = process_environment(
        variables,
        {
            "AIRFLOW__CORE__PARALLELISM": "16",
            "AIRFLOW_HOME": "/another/airflow",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW_CONN_AI_USAGE__AWS_BEDROCK__PROD": "{}",
        },
    )
    assert environment["AIRFLOW__CORE__PARALLELISM"] == "16"
    assert environment["AIRFLOW_CONN_AI_USAGE__AWS_BEDROCK__PROD"] == "{}"
    assert environment["AIRFLOW_HOME"] == str(state.airflow_home)
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "ai_usage.orchestration.executor.PreloadedLocalExecutor"


def test_settings_of_other_programs_do_not_leak_in(state: State) -> None:
    foreign = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": "/elsewhere", "PGHOST": "elsewhere", "PGOPTIONS": "-c x=y"}
    environment = process_environment(project_variables(state, Ports(), state.secrets()), foreign)
    assert environment["PYTHONPATH"] == str(state.root / "plugins")
    assert {"PYTHONDONTWRITEBYTECODE", "PGHOST", "PGOPTIONS"} & environment.keys() == set()


def test_calls_on_the_loopback_address_never_go_to_a_proxy() -> None:
    environment = process_environment({}, {"HTTP_PROXY": "http://proxy:3128", "no_proxy": "corp.example"})
    assert environment["no_proxy"] == "corp.example,127.0.0.1,localhost"
    assert environment["NO_PROXY"] == "127.0.0.1,localhost"


def test_everything_that_listens_is_on_the_loopback_address(state: State) -> None:
    variables = project_variables(state, Ports(ui=9000), state.secrets())
    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert variables["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:9000"
    assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:9000/execution/"
    assert json.loads(variables["AIRFLOW_CONN_AI_USAGE_WAREHOUSE"])["host"] == "127.0.0.1"


def test_a_busy_port_is_chosen_around_and_the_choice_remembered(state: State, busy: int) -> None:
    state.ports_file.write_text(json.dumps({"ui": busy}))

    chosen = choose_ports(state, {})

    assert chosen.ui != busy
    assert remembered_ports(state) == chosen
    assert len(set(vars(chosen).values())) == len(vars(chosen))


def test_two_parts_that_prefer_the_same_port_get_two(state: State) -> None:
    state.ports_file.write_text(json.dumps({"ui": 23456, "database": 23456}))
    chosen = choose_ports(state, {})
    assert chosen.ui != chosen.database


def test_a_busy_port_that_the_user_asks_for_is_named_with_its_holder(state: State, busy: int) -> None:
    with pytest.raises(LauncherError, match=rf"Port {busy}, which AI_USAGE_UI_PORT asks for.*process {os.getpid()}"):
        choose_ports(state, {"AI_USAGE_UI_PORT": str(busy)})


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "80 80"])
def test_a_port_that_is_none_is_refused_by_name(state: State, text: str) -> None:
    with pytest.raises(LauncherError, match="AI_USAGE_DB_PORT is not a port"):
        choose_ports(state, {"AI_USAGE_DB_PORT": text})


def test_a_file_of_ports_that_makes_no_sense_is_forgotten(state: State) -> None:
    state.ports_file.write_text("[1, 2")
    assert remembered_ports(state) == Ports()
