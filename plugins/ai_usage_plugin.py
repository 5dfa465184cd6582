"""What this project adds to Airflow itself. Airflow imports this file in each of its processes, so it stays small."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from ai_usage.orchestration.portless import PortlessConnections


class AiUsagePlugin(AirflowPlugin):
    """Makes the Test button work for connections without a port."""

    name = "ai_usage"
    fastapi_root_middlewares: ClassVar[list[Any]] = [
        {"middleware": PortlessConnections, "args": [], "kwargs": {}, "name": "AI usage: connections without a port"}
    ]
