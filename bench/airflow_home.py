"""The surroundings of a throw-away Airflow, for processes that measure and must not meet somebody's real one."""

from __future__ import annotations

import os
from pathlib import Path

from bench.processes import ROOT


def settings(folder: Path) -> dict[str, str]:
    """Return the variables of an Airflow in a folder of its own, which finds this project's DAGs and plugin."""
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "DO_NOT_TRACK": "1",
    }


def surroundings(folder: Path) -> dict[str, str]:
    """Return the environment of a process that finds this project's DAGs and plugin, and nothing else of Airflow's."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "AI_USAGE_", "AWS_"))}
    return ours | settings(folder) | {"PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT}"}
