"""Places for servers and checkouts, with the space in the path that people have in theirs."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.postgres import Postgres
from launcher.state import State


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder whose path has a space in it."""
    folder = tmp_path / "some place"
    folder.mkdir()
    return folder


@pytest.fixture
def state(place: Path) -> State:
    """The state folder of an empty checkout."""
    state = State(place)
    state.create()
    return state


@pytest.fixture(scope="module")
def kept_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One server for a whole module: making a data directory costs a second or more."""
    server = Postgres(tmp_path_factory.mktemp("kept place") / "pg")
    yield server
    server.remove()


@pytest.fixture
def server(kept_server: Postgres) -> Iterator[Postgres]:
    """A server that is not running; what it holds is left from other tests."""
    kept_server.stop("immediate")
    yield kept_server
    kept_server.stop("immediate")


@pytest.fixture
def checkout(place: Path, repository: Path) -> Iterator[Path]:
    """What the wrappers and the Makefile need of the repository, without a state folder."""
    folder = place / "check out"
    folder.mkdir()
    for name in ("bin", "launcher", "plugins", "dags"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [repository / "Makefile", *repository.glob("requirements*")]:
        shutil.copy(file, folder)
    yield folder
    with contextlib.suppress(FileNotFoundError):
        State(folder).remove()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Wait until something is true."""

    def wait(is_true: Callable[[], object], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, "it never became true"
            time.sleep(0.02)

    return wait
