"""
What Airflow is told about this project as a provider package: its connection types, with their forms.

Airflow finds the function through ``plugins/ai_usage_provider-*.dist-info``, which is all there is to an installed
package: with ``plugins`` on ``PYTHONPATH`` nothing has to be installed. It is called while Airflow is being imported.
"""

from __future__ import annotations

from typing import Any

from ai_usage import connection_types


def get_provider_info() -> dict[str, Any]:
    """Return the description; its package name is the one in the ``dist-info``."""
    return {
        "package-name": "ai-usage-provider",
        "name": "AI usage",
        "description": "Connections to the usage and cost reports of AI providers.",
        "connection-types": [connection_types.load(name) for name in connection_types.names()],
    }
