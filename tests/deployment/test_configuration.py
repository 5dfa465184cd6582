"""What can be told of the deployment from its files alone."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from launcher.settings import PREFERENCES

AIRFLOW = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-worker")
STRONG = "N3w-and_random-Q8wRt2"


@pytest.fixture(scope="module")
def services(repository: Path) -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load((repository / "docker-compose.yaml").read_text())["services"]
    return described


@pytest.fixture(scope="module")
def check_secrets(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_secrets", repository / "docker/in_image/check_secrets.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_is_there_and_has_a_health_check(services: dict[str, Any]) -> None:
    assert {*AIRFLOW, "airflow-init", "postgres", "redis", "sandbox"} <= services.keys()
    for name, service in services.items():
        if name not in ("airflow-init", "sandbox-connect"):
            assert "test" in service["healthcheck"], name


def test_what_makes_a_laptop_fast_is_set_on_a_server_too(services: dict[str, Any]) -> None:
    wanted = {key: value for key, value in PREFERENCES.items() if key != "AIRFLOW__CORE__PARALLELISM"}
    for name in AIRFLOW:
        assert {key: services[name]["environment"].get(key) for key in wanted} == wanted, name


def test_only_the_ui_is_published_and_only_to_this_machine(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert published == {"airflow-apiserver": ["${AI_USAGE_UI_BIND:-127.0.0.1:8080}:8080"]}


def test_every_container_is_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service.get("user") != "root" and "privileged" not in service, name
        assert not [volume for volume in service.get("volumes", []) if volume.startswith((".", "/"))], name


def test_the_databases_are_in_a_network_without_a_way_out(repository: Path, services: dict[str, Any]) -> None:
    whole = yaml.safe_load((repository / "docker-compose.yaml").read_text())

    assert whole["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert services[name]["networks"] == ["inside"], name


def test_no_secret_has_a_default(repository: Path) -> None:
    text = (repository / "docker-compose.yaml").read_text()
    used = set(re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|KEY)\w*)([^}]*)\}", text))

    assert {name for name, _ in used} >= {"AI_USAGE_FERNET_KEY", "AI_USAGE_JWT_SECRET", "AI_USAGE_UI_PASSWORD"}
    assert {rest for _, rest in used} == {":?is not set; run docker/make-env"}


def test_images_name_a_user_that_is_not_root(repository: Path) -> None:
    for path in (repository / "docker").glob("*ockerfile"):
        users = re.findall(r"^USER (.+)$", path.read_text(), re.MULTILINE)
        assert users and not {"0", "root", "0:0"} & set(users), path.name


def test_images_hold_nothing_but_what_is_named(repository: Path) -> None:
    ignored = (repository / ".dockerignore").read_text().splitlines()

    assert "*" in ignored
    assert not [
        line for line in ignored if line.startswith("!") and ("env" in line or "git" in line or "state" in line)
    ]


def test_make_env_writes_secrets_that_are_accepted_and_never_changes_them(
    repository: Path, tmp_path: Path, check_secrets: ModuleType
) -> None:
    (tmp_path / "docker").mkdir()
    shutil.copy2(repository / "docker/make-env", tmp_path / "docker")
    (tmp_path / ".env").write_text("AI_USAGE_UI_PASSWORD=mine-own-and-Long7\nAI_USAGE_JWT_SECRET=\n")

    for _ in range(2):
        subprocess.run([tmp_path / "docker/make-env", "--celery", "--sandbox"], check=True, capture_output=True)
    made = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())

    assert made["AI_USAGE_UI_PASSWORD"] == "mine-own-and-Long7"
    assert made["COMPOSE_PROFILES"] == "celery,sandbox"
    assert oct((tmp_path / ".env").stat().st_mode & 0o777) == "0o600"
    names = {"AIRFLOW__CORE__FERNET_KEY": "AI_USAGE_FERNET_KEY", "AIRFLOW__API__SECRET_KEY": "AI_USAGE_API_SECRET"}
    names["AIRFLOW__API_AUTH__JWT_SECRET"] = "AI_USAGE_JWT_SECRET"
    environment = {name: made[names.get(name, name)] for name in check_secrets.SECRETS}
    assert check_secrets.complaints(environment) == []
    Fernet(made["AI_USAGE_FERNET_KEY"])
    assert len(set(environment.values())) == len(check_secrets.SECRETS)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("", "empty or shorter"),
        ("Sh0rt-Q", "empty or shorter"),
        ("changeme-changeme-1", "default"),
        ("Airflow-2026-Airflow", "default"),
        ("xxxxxxxxxxxxxxxxxxxx", "default"),
        ("good-But/with:slash-7Q", "characters other than"),
    ],
)
def test_a_secret_that_anybody_could_guess_is_refused(check_secrets: ModuleType, value: str, fault: str) -> None:
    (said,) = check_secrets.complaints({"AI_USAGE_READER_PASSWORD": value})

    assert said.startswith("AI_USAGE_READER_PASSWORD ") and fault in said
    assert not value or value not in said


def test_a_fernet_key_has_to_be_one(check_secrets: ModuleType) -> None:
    key, other = Fernet.generate_key().decode(), Fernet.generate_key().decode()

    assert check_secrets.complaints({"AIRFLOW__CORE__FERNET_KEY": f"{key},{other}"}) == []
    assert "no Fernet key" in check_secrets.complaints({"AIRFLOW__CORE__FERNET_KEY": STRONG})[0]
