"""The DAG files as Airflow meets them: parsed without a network, a database or a surprise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ai_usage import providers

PARSE = """
import json, sys

forbidden = []

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen", "os.exec"):
        forbidden.append(event)
        raise RuntimeError(f"a DAG file must not cause {event} when it is parsed")

from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

before = set(sys.modules)
sys.addaudithook(refuse)
bag = DagBag(sys.argv[1])
print(json.dumps({
    "errors": bag.import_errors,
    "forbidden": forbidden,
    "database_drivers": sorted({"psycopg", "psycopg2", "boto3"} & (set(sys.modules) - before)),
    "dags": {
        dag.dag_id: {
            "tasks": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
            "catchup": dag.catchup,
            "max_active_runs": dag.max_active_runs,
            "tags": sorted(dag.tags),
            "doc": dag.doc_md,
            "params": sorted(dag.params),
            "is_stable": DagSerialization.to_dict(dag) == DagSerialization.to_dict(DagBag(sys.argv[1]).dags[dag.dag_id]),
        }
        for dag in bag.dags.values()
    },
}, default=str), file=sys.stderr)
"""

LOAD_PLUGINS = """
import json, sys
from pathlib import Path

plugins = Path(sys.argv[1]).resolve()
from airflow import plugins_manager

before = set(sys.modules)
found, errors = plugins_manager._get_plugins()
ours = [name for name, module in sys.modules.items() if str(plugins) in str(getattr(module, "__file__", "") or "")]
print(json.dumps({"errors": errors, "ours": sorted(ours)}), file=sys.stderr)
"""


def run(script: str, argument: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(argument)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(argument.parent / "plugins")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def parsed(repository: Path) -> dict[str, Any]:
    return run(PARSE, repository / "dags")


def test_every_file_parses_without_network_database_or_process(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["forbidden"] == []
    assert parsed["database_drivers"] == []


def test_every_provider_has_its_dag_and_so_have_the_marts_and_housekeeping(parsed: dict[str, Any]) -> None:
    others = {"usage_marts", "usage_housekeeping"}
    assert set(parsed["dags"]) == {f"{name}_usage" for name in providers.names()} | others


def test_housekeeping_does_three_things_that_do_not_wait_for_each_other(parsed: dict[str, Any]) -> None:
    assert parsed["dags"]["usage_housekeeping"]["tasks"] == {"check": [], "clean": [], "tell": []}


@pytest.mark.parametrize("name", providers.names())
def test_a_provider_dag_has_the_common_shape(parsed: dict[str, Any], name: str) -> None:
    dag = parsed["dags"][f"{name}_usage"]

    assert dag["tasks"] == {
        "plan": ["extract_load"],
        "extract_load": ["publish", "verdict"],
        "publish": [],
        "verdict": [],
    }
    assert (dag["catchup"], dag["max_active_runs"]) == (False, 1)
    assert dag["tags"] == sorted(["usage", name])
    assert dag["params"] == ["connections", "from", "to"]


def test_every_dag_tells_the_person_on_call_what_to_do(parsed: dict[str, Any]) -> None:
    for dag_id, dag in parsed["dags"].items():
        assert "fails" in dag["doc"], f"{dag_id} does not say what to do when it fails"
        assert "Safe to re-run" in dag["doc"]


def test_a_dag_file_parses_to_the_same_dag_each_time(parsed: dict[str, Any]) -> None:
    # Airflow keeps a new version of a DAG for every difference.
    assert all(dag["is_stable"] for dag in parsed["dags"].values())


def test_the_plugins_folder_shadows_no_module(repository: Path) -> None:
    loaded = run(LOAD_PLUGINS, repository / "plugins")

    assert loaded["errors"] == {}
    assert [name for name in loaded["ours"] if name.partition(".")[0] not in {"ai_usage", "ai_usage_plugin"}] == []
