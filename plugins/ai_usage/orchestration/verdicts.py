"""Summing up a run: green means nothing to do, red means something to do and says what."""

from __future__ import annotations

from collections.abc import Sequence

from ai_usage.core.errors import UsageError
from ai_usage.orchestration.work import Summary, Work


class SourcesFailed(UsageError):
    """At least one source of a run could not be read."""

    kind = "sources_failed"
    is_list = True


def verdict(planned: Sequence[Work] | None, summaries: Sequence[Summary], problems: Sequence[str]) -> str:
    """
    Return one sentence about a run in which everything worked; raise :class:`SourcesFailed` otherwise.

    A day that waits for its next try was not asked for, so it does not make a run red; its problem stays open.

    :param planned: what ``plan`` returned; ``None`` if it failed.
    :param problems: the error texts that the ledger holds for the run.
    """
    if planned is None:
        raise SourcesFailed("The run could not be planned.", action="The log of its task plan says why.")
    missing = sorted({work["label"] for work in planned} - {summary["label"] for summary in summaries})
    if not missing:
        changed = sum(summary["slices_changed"] for summary in summaries)
        written = sum(summary["records_written"] for summary in summaries)
        return f"All {len(planned)} sources were read: {changed} slices changed, {written} records written."
    told = (
        "\n".join(f"- {problem}" for problem in sorted(set(problems))) or "- no reason was recorded: see the task's log"
    )
    raise SourcesFailed(
        f"{len(missing)} of {len(planned)} sources failed ({', '.join(missing)}).\n{told}\n",
        action="What the others read is stored. The next run asks again for what is missing.",
    )
