"""The long-running commands of an instance."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from launcher.settings import Ports
from launcher.state import State
from launcher.supervisor import Component

# Scheduler and triggerer would serve their log files over HTTP to all networks. Here everybody reads the same folder.
_AIRFLOW = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}


def airflow_components(state: State, environment: Mapping[str, str]) -> list[Component]:
    """Return Airflow's four processes."""
    return [
        Component(
            name=name,
            command=[sys.executable, "-P", "-m", "airflow", *arguments],
            environment=environment,
            log=state.logs / f"{name}.log",
        )
        for name, arguments in _AIRFLOW.items()
    ]


def sandbox_component(state: State, environment: Mapping[str, str], ports: Ports) -> Component:
    """Return the sandbox: local servers that stand in for the providers."""
    return Component(
        name="sandbox",
        command=[
            *(sys.executable, "-P", "-m", "sandbox", "serve", "--port", str(ports.sandbox)),
            *("--moto-port", str(ports.sandbox_moto), "--state-folder", str(state.sandbox)),
        ],
        environment={**environment, "PYTHONPATH": str(state.root)},
        log=state.logs / "sandbox.log",
    )
