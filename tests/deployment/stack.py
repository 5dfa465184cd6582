"""A deployment beside what the sandbox knows to be true."""

from __future__ import annotations

from datetime import date, timedelta

from launcher.compose import Failed, Stack, eventually
from tests.support.marts import DAILY, Places, normal

HISTORY_DAYS = 40
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
        problems = self.select("select * from ops.problem where closed_at is null")
        return "\n".join([f"{len(wrong)} of {len(true)} places differ", *told, str(runs), str(problems)[:3000]])

    def restate(self, factor: int) -> int:
        """Let every provider correct yesterday and the day before, wherever it can; return how many corrections."""
        health = self.ask("/_health")
        today = date.fromisoformat(health["today"])
        asked = [
            (name, day)
            for name in health["simulators"]
            for day in (today - timedelta(days=1), today - timedelta(days=2))
        ]
        truths = self.ask_all([_truth(name, day, day) for name, day in asked])
        corrections = [
            {"provider": name, "account": account, "region": region, "day": str(day), "factor": factor}
            for (name, day), rows in zip(asked, truths, strict=True)
            for account, region in sorted(
                {(row["account_id"], at) for row in rows for at in (row["region"], "-")}, key=repr
            )
        ]
        # A place that a provider does not have is refused.
        return sum(bool(answer) for answer in self.ask_all([("POST", "/_restate", [one]) for one in corrections]))


def _truth(provider: str, first: date, last: date | str) -> tuple[str, str, None]:
    return "GET", f"/_truth?provider={provider}&first={first}&last={last}", None
