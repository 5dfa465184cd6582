"""The executor that imports before it forks."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ai_usage.orchestration import preloading

STARTED = """
import json, os, sys, threading
from ai_usage.orchestration.executor import PreloadedLocalExecutor
from ai_usage.orchestration.preloading import MODULES

class Watched(PreloadedLocalExecutor):
    forked_with = []

    def _spawn_worker(self):
        self.forked_with.append([name for name in MODULES if name not in sys.modules])

one = Watched(parallelism=2)
one.start()
told = {"lacking": one.forked_with, "ours": sorted(name for name in sys.modules if name.startswith("ai_usage"))}
told["threads"] = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else threading.active_count()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def started(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a scheduler's process is like when the executor forks."""
    home = tmp_path_factory.mktemp("airflow")
    surroundings = os.environ | {"PYTHONPATH": str(repository / "plugins"), "AIRFLOW_HOME": str(home)}
    told = subprocess.run(
        [sys.executable, "-P", "-c", STARTED], env=surroundings, capture_output=True, text=True, check=True
    )
    content: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return content


def test_every_worker_is_forked_with_everything_imported(started: dict[str, Any]) -> None:
    assert started["lacking"] == [[], []]


def test_a_task_finds_our_own_code_as_it_is_on_the_disk(started: dict[str, Any]) -> None:
    work = tuple(f"ai_usage.{layer}." for layer in ("core", "orchestration", "providers", "warehouse"))
    assert [name for name in started["ours"] if name.startswith(work)] == [
        "ai_usage.orchestration.executor",
        "ai_usage.orchestration.preloading",
    ]


def test_no_thread_runs_when_the_executor_forks(started: dict[str, Any]) -> None:
    assert started["threads"] == 1


def test_what_cannot_be_imported_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preloading, "MODULES", ("no_such_module", "wave"))
    monkeypatch.delitem(sys.modules, "wave", raising=False)

    with caplog.at_level(logging.WARNING, preloading.__name__):
        preloading.preload()

    assert "no_such_module" in caplog.text
    assert "wave" in sys.modules
