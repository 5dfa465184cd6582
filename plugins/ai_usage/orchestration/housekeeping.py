"""What is done once a day, whatever the sources do: deleting what has had its time, and testing all of history."""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import timedelta
from pathlib import Path

from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.orchestration.dbt_process import Dbt
from ai_usage.orchestration.transform import TransformFailed, check_all_history
from ai_usage.warehouse import events
from ai_usage.warehouse.janitor import Cleaned, delete_old_rows, measure_tables, prune_versions
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from ai_usage.warehouse.session import Warehouse

log = logging.getLogger(__name__)

KEEP_SETTING = "AI_USAGE_KEEP_SUPERSEDED_DAYS"
KEEP_DEFAULT = 30
LONGEST_CLEANING = timedelta(hours=2)
"""What is not done by then is done the next day, so that a first cleaning after years holds up nothing."""
_PLACE = Place("-", "usage_housekeeping", None, None)
"""Its story is apart from the transform's: a transform that succeeds has tested no more than it changed."""


def days_to_keep() -> int:
    """
    Return for how many days the records of a version stay after it was replaced.

    :raises ConfigurationInvalid: if the setting is no number of days.
    """
    text = os.environ.get(KEEP_SETTING, "").strip()
    if not text:
        return KEEP_DEFAULT
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 36_500:
        return int(text)
    raise ConfigurationInvalid(
        f"{KEEP_SETTING} is {text[:20]!r}, which is no number of days.",
        action=f"Set it to 1 or more in the environment of Airflow's workers, or leave it out: then it is {KEEP_DEFAULT}.",
    )


def clean(warehouse: Warehouse) -> str:
    """Prune replaced versions, delete old rows, measure the tables; return what that came to."""
    keep = timedelta(days=days_to_keep())
    ends_at = time.monotonic() + LONGEST_CLEANING.total_seconds()
    done = Cleaned()
    prune_versions(warehouse, keep, done, lambda: time.monotonic() > ends_at)
    delete_old_rows(warehouse, done, lambda: time.monotonic() > ends_at)
    for sentence in measure_tables(warehouse):
        log.warning("%s", sentence)
    return str(done)


def check(warehouse: Warehouse, run_id: str, *, project: Path, target: Path) -> str:
    """
    Test all of history, and ask when each source last answered; return what was found.

    A source that has not answered for long is told, and is no failure: it has a problem of its own.

    :raises TransformFailed: if a test fails.
    """
    Dbt(warehouse, project, target).run("source", "freshness")
    stale = _stale_sources(target)
    for name in stale:
        log.warning("%s has not answered lately", name)
    try:
        tested = check_all_history(warehouse, run_id, project=project, target=target)
    except TransformFailed as error:
        with warehouse.session(LOADER) as session:
            events.open_problem(session, _PLACE, "transform", error.kind, "error", error.happened, error.action, run_id)
        raise
    with warehouse.session(LOADER) as session:
        events.close_problem(session, _PLACE, "transform", run_id)
    return f"All of history was tested: {tested.nodes_ok} tests good. {len(stale)} sources have not answered lately."


def _stale_sources(target: Path) -> list[str]:
    """Return the sources that dbt found stale, by name; those never read are not among them."""
    try:
        results = json.loads((target / "sources.json").read_text())["results"]
    except (OSError, ValueError, KeyError):
        return []
    return sorted(
        str(result["unique_id"]).split(".", 2)[-1] for result in results if result.get("status") in {"warn", "error"}
    )
