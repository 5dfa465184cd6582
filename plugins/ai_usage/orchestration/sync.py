"""
A sync of one provider, step by step: plan, extract and load, sum up.

The DAG's tasks and the command line call these functions; nothing here knows which of the two it is.
"""

from __future__ import annotations

from ai_usage.orchestration.planning import SCOPES_OF_THEIR_OWN, plan
from ai_usage.orchestration.reading import ScopeReader, extract_and_load
from ai_usage.orchestration.verdicts import SourcesFailed, verdict
from ai_usage.orchestration.verification import verify
from ai_usage.orchestration.work import (
    MOST_DAYS_AT_ONCE,
    UNKNOWN_SCOPE,
    Part,
    Request,
    Summary,
    Work,
    requested_window,
    selected,
)

__all__ = [
    "MOST_DAYS_AT_ONCE",
    "SCOPES_OF_THEIR_OWN",
    "UNKNOWN_SCOPE",
    "Part",
    "Request",
    "ScopeReader",
    "SourcesFailed",
    "Summary",
    "Work",
    "extract_and_load",
    "plan",
    "requested_window",
    "selected",
    "verdict",
    "verify",
]
