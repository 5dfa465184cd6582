"""What every task would import anew is imported once, before tasks are forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.warehouse import TestWarehouse

HISTORY_DAYS = 2
WITH_MOTO = True

# BigQuery's client is left to the tasks that need it, with everything that it brings.
READ_EVERYTHING = """
import json, sys
from ai_usage.orchestration.preloading import preload
preload()
import google.cloud.bigquery
known = set(sys.modules)
from ai_usage import providers
from ai_usage.orchestration.notifications import after_run
from ai_usage.orchestration.sources import discover, next_run
from ai_usage.orchestration.sync import extract_and_load, plan
from ai_usage.orchestration.warehouse_connection import open_warehouse
warehouse, read = open_warehouse(), []
for provider in providers.load_all():
    for work in plan(provider, warehouse, discover(provider), {}):
        extract_and_load(provider, warehouse, work, "a test")
        read.append(provider.name)
after_run(warehouse, "openai_usage", "openai")
new = sorted(name for name in set(sys.modules) - known if not name.startswith(("ai_usage", "airflow.sdk")))
print(json.dumps({"read": sorted(set(read)), "new": new}))
"""


@pytest.mark.timeout(300)
def test_reading_every_provider_imports_next_to_nothing_more_of_others(
    connected: TestWarehouse, repository: Path
) -> None:
    told = subprocess.run(
        [sys.executable, "-P", "-c", READ_EVERYTHING],
        env=os.environ | {"PYTHONPATH": str(repository / "plugins")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    content = json.loads(told.stdout.splitlines()[-1])

    assert len(content["read"]) == 10
    foreign = {name.split(".")[0] for name in content["new"]} - set(sys.stdlib_module_names)
    assert len(content["new"]) <= 30, content["new"]
    assert foreign <= {"boto3", "botocore", "google", "six"}, content["new"]


# dbt is forked, so it is asked here in the process itself.
BUILD = """
import json, sys
from ai_usage.orchestration.preloading import preload
preload()
known = set(sys.modules)
from dbt.cli.main import dbtRunner
outcome = dbtRunner().invoke(sys.argv[1:])
print(json.dumps({"succeeded": outcome.success, "new": sorted(set(sys.modules) - known)}))
"""


@pytest.mark.timeout(300)
def test_a_build_imports_next_to_nothing_more(warehouse: TestWarehouse, repository: Path, dbt_target: Path) -> None:
    project = str(repository / "dbt_project")
    told = subprocess.run(
        [
            *(sys.executable, "-P", "-c", BUILD, "--quiet", "build", "--exclude-resource-type", "unit_test"),
            *("--project-dir", project, "--profiles-dir", project, "--target-path", str(dbt_target)),
            *("--log-path", str(dbt_target / "logs")),
        ],
        env=os.environ | warehouse.environment() | {"PYTHONPATH": str(repository / "plugins")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    content = json.loads(told.stdout.splitlines()[-1])

    assert content["succeeded"], told.stdout
    assert len(content["new"]) <= 30, content["new"]
