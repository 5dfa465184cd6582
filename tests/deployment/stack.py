"""A deployment beside what the sandbox knows to be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from launcher.compose import Failed, Stack, eventually
from tests.support.marts import DAILY, Places, normal

HISTORY_DAYS = 40
PLACES = 6
__all__ = ["Deployed", "Failed", "eventually"]


class Deployed(Stack):
    """A stack with the sandbox, whose marts can be compared with the truth."""

    def mart(self) -> Places:
        """Return ``usage_daily`` as an analyst sees it."""
        wanted = f"select {', '.join(DAILY)} from marts.usage_daily where model is not null"
        return normal(self.select(wanted, user="ai_usage_reader"))

    def truth(self) -> Places:
        """Return what the mart must hold, of all providers."""
        health = self.ask("/_health")
        first = date.fromisoformat(health["today"]) - timedelta(days=HISTORY_DAYS - 1)
        answers = self.ask_all([_truth(name, first, health["today"]) for name in health["simulators"]])
        return normal(row for rows in answers for row in rows)

    def await_truth(self, seconds: float) -> None:
        """Wait until the mart equals the truth; what differs is in the failure."""
        true = self.truth()
        eventually(lambda: self._mart_or_nothing() == true, seconds, lambda: self._difference(true), every=10)
        keys = "usage_date, provider, account_id, region, model"
        assert self.select(f"select 1 from marts.usage_daily group by {keys} having count(*) > 1") == []

    def _mart_or_nothing(self) -> Places:
        """Return the mart, or nothing while it does not exist yet or the database is away."""
        try:
            return self.mart()
        except Failed:
            return {}

    def _difference(self, true: Places) -> str:
        stored = self._mart_or_nothing()
        wrong = sorted(
            (place for place in stored.keys() | true.keys() if stored.get(place) != true.get(place)), key=repr
        )
        told = [f"{place}: stored {stored.get(place)}, true {true.get(place)}" for place in wrong[:3]]
        runs = self.select("select dag_id, run_id, state from dag_run where state <> 'success'", "airflow")
        problems = self.select("select * from ops.problem where resolved_at is null")
        return "\n".join([f"{len(wrong)} of {len(true)} places differ", *told, str(runs), str(problems)[:3000]])

    def restate(self, factor: int) -> int:
        """Let every provider correct yesterday in some places; return in how many."""
        health = self.ask("/_health")
        yesterday = date.fromisoformat(health["today"]) - timedelta(days=1)
        names = health["simulators"]
        truths = self.ask_all([_truth(name, yesterday, yesterday) for name in names])
        corrections = [
            {"provider": name, "account": account, "region": region, "day": str(yesterday), "factor": factor}
            for name, rows in zip(names, truths, strict=True)
            for account, region in _places(rows)[:PLACES]
        ]
        # A place that a provider does not have is refused.
        return sum(bool(answer) for answer in self.ask_all([("POST", "/_restate", [one]) for one in corrections]))


def _places(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return accounts with their regions; "-" stands for a provider without any."""
    return sorted({(str(row["account_id"]), str(at)) for row in rows for at in (row["region"], "-")})


def _truth(provider: str, first: date, last: date | str) -> tuple[str, str, None]:
    return "GET", f"/_truth?provider={provider}&first={first}&last={last}", None
