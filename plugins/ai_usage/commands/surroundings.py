"""What several commands need: the sources, the transform's folders, and the log as progress."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ai_usage.commands.output import tell
from ai_usage.core.contract import Provider
from ai_usage.core.errors import ConfigurationInvalid, UsageError
from ai_usage.orchestration.transform import Transformed, transform
from ai_usage.warehouse.session import Warehouse

_REPOSITORY = Path(__file__).resolve().parents[3]


def sources(wanted: Sequence[str] = (), provider: str | None = None) -> list[tuple[Provider, str]]:
    """Return (provider, connection id) of the sources that are meant, all if none is named; refuse a stranger."""
    from ai_usage import providers
    from ai_usage.orchestration.sources import discover

    of = [providers.load(provider)] if provider else providers.load_all()
    found = [(one, name) for one in of for name in discover(one)]
    if unknown := sorted(set(wanted) - {name for _, name in found}):
        raise ConfigurationInvalid(
            f"These connections are no sources: {', '.join(unknown)}.",
            action=f"Choose among: {', '.join(name for _, name in found) or 'none is configured'}.",
        )
    return [(one, name) for one, name in found if not wanted or name in wanted]


def new_run_id(command: str) -> str:
    """Return a name for this run, which no other has, as the ledger keeps it."""
    return f"command/{command}_{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}_{secrets.token_hex(3)}"


def build_marts(warehouse: Warehouse, run_id: str, *, full_refresh: bool = False) -> Transformed:
    """Run the transform in this process, with the folders that the scheduled one uses; it waits for a running one."""
    home = Path(os.environ.get("AIRFLOW_HOME", Path.home() / "airflow"))
    return transform(
        warehouse,
        run_id,
        project=Path(os.environ.get("AI_USAGE_DBT_PROJECT", _REPOSITORY / "dbt_project")),
        target=Path(os.environ.get("AI_USAGE_DBT_TARGET", home / "dbt_target")),
        full_refresh=full_refresh,
    )


class _ToStandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            tell(f"  {line}")


@contextmanager
def progress() -> Iterator[None]:
    """Show what this project logs on standard error, one line each, and nothing of what Airflow logs."""
    ours = logging.getLogger("ai_usage")
    before = ours.level, ours.propagate
    handler = _ToStandardError()
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.level, ours.propagate = before


def sentence(error: UsageError, connection_id: str) -> str:
    """Return what went wrong with a source and what to do, once, with its name."""
    return str(error.at(connection_id))
