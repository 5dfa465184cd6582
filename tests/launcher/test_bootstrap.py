from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.bootstrap import chosen, parse_pip_settings, uv_environment


def test_the_strongest_of_pips_settings_counts() -> None:
    listing = (
        "global.index-url='https://global.example/simple'\n"
        "install.index-url='https://install.example/simple'\n"
        ":env:.index-url='https://env.example/simple'\n"
        "global.cert='/etc/ca.pem'\n"
        "freeze.timeout='1'\n"
        "nonsense\n"
    )
    assert parse_pip_settings(listing) == {"index-url": "https://env.example/simple", "cert": "/etc/ca.pem"}


def test_a_mirror_that_pip_knows_is_told_to_uv(tmp_path: Path) -> None:
    certificate = tmp_path / "ca.pem"
    certificate.touch()
    settings = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "\nhttps://one.example/simple\nhttps://two.example/simple",
        "cert": str(certificate),
        "trusted-host": "mirror.example",
        "proxy": "http://proxy.example:3128",
    }
    assert uv_environment(settings, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": str(certificate),
        "UV_INSECURE_HOST": "mirror.example",
        "ALL_PROXY": "http://proxy.example:3128",
    }


def test_places_that_do_not_exist_are_left_out_as_pip_does(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    settings = {
        "extra-index-url": f"file://{tmp_path}/absent https://there.example/simple",
        "find-links": f"{wheels} {tmp_path}/absent",
        "cert": f"{tmp_path}/absent.pem",
    }
    told = uv_environment(settings, {})
    assert told["UV_INDEX"] == "https://there.example/simple"
    assert told["UV_FIND_LINKS"] == str(wheels)
    assert "SSL_CERT_FILE" not in told


def test_what_the_user_told_uv_directly_stays() -> None:
    told = uv_environment(
        {"index-url": "https://pip.example/simple"}, {"UV_DEFAULT_INDEX": "https://uv.example/simple"}
    )
    assert told == {}


def test_what_the_benchmarks_compare_with_never_meets_the_project_s_own_environment() -> None:
    ours, theirs = chosen(["dev"]), chosen(["bench"])

    assert not ours.folder.is_relative_to(theirs.folder)
    assert not theirs.folder.is_relative_to(ours.folder)
    assert not set(ours.locks) & set(theirs.locks)


def setup(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "bin/_setup"], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )


@pytest.fixture
def few_programs(place: Path) -> Path:
    """A folder with what a shell script needs and no Python."""
    folder = place / "programs"
    folder.mkdir()
    for name in ("sh", "dirname", "cat"):
        (folder / name).symlink_to(Path("/usr/bin") / name)
    return folder


def test_no_python_at_all_is_said_with_what_to_install(checkout: Path, few_programs: Path) -> None:
    done = setup(checkout, PATH=str(few_programs))
    assert done.returncode == 1
    assert "No Python 3.11, 3.12 or 3.13 was found" in done.stderr
    assert "apt-get install" in done.stderr


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_a_python_of_another_version_is_named(checkout: Path, few_programs: Path, version: str) -> None:
    fake = few_programs / "python3"
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}.1" && exit 0\nexit 1\n')
    fake.chmod(0o755)
    done = setup(checkout, PATH=str(few_programs), PYTHON="python3")
    assert done.returncode == 1
    assert f"PYTHON=python3 is Python {version}.1; Python 3.11, 3.12 or 3.13 is needed." in done.stderr


def test_a_python_that_is_no_program_is_named(checkout: Path) -> None:
    done = setup(checkout, PATH=os.environ["PATH"], PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "PYTHON=/no/such/python is not a program" in done.stderr


def test_a_python_that_can_make_no_environments_says_which_package_is_missing(checkout: Path, place: Path) -> None:
    """Debian splits the module off: here an interpreter of the right version sees neither ensurepip nor pip."""
    hide = (
        "import importlib.util, runpy, sys; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in ('ensurepip', 'pip') else real(name, *rest)\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", hide, checkout / "launcher/bootstrap.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install python{version}-venv" in done.stderr
    assert not (checkout / ".state/venv").exists()


def test_an_index_that_does_not_answer_is_said_and_leaves_a_setup_that_can_go_on(checkout: Path) -> None:
    done = setup(
        checkout,
        PATH=os.environ["PATH"],
        HOME=str(checkout),
        PYTHON=str(Path(sys.executable).resolve()),
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_CONFIG_FILE=os.devnull,
    )
    assert done.returncode == 1
    assert "The package index does not answer" in done.stderr
    assert "pip config set global.index-url" in done.stderr
    assert "Traceback" not in done.stderr
    assert '"unfinished": true' in (checkout / ".state/venv/installed.json").read_text()
