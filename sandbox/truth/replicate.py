"""
Replicate: what an organization and a user ran, run by run, and what a mart must make of it.

A *use* is one way of running a model: a version, a deployment, a source, and how it ends. Its runs are drawn one by one,
with times in whole microseconds, so that sums are exact. What each model really is stands beside it, written out by hand.

The studio answers as Replicate's document of 2026 says; the tinkerer as older answers did: seconds as text, without a
source. Some runs end after midnight, some days later, some share one instant, and some end without saying how long they ran.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from sandbox.errors import SandboxError
from sandbox.truth import ProviderTruth, Row, days_between, detail_row, draw, draw_between, in_detail_order
from sandbox.world import Restatement, World

PROVIDER = "replicate"
QUIET_EVERY = 11
IDLE_EVERY = 7
HISTORY_DAYS = 400
"""How many days before the sandbox's first the oldest run is."""
_MICROSECONDS_A_DAY = 86_400_000_000
_LATE = 86_280_000_000
"""23:58, in microseconds."""


@dataclass(frozen=True)
class Use:
    """
    One way of running a model.

    :param identity: what the model really is.
    :param status: how its runs end.
    :param runs: the most runs on one day.
    :param seconds: the most seconds of one run; ``None``: they end without a time.
    :param tokens: the most input tokens of one run; ``None``: the model counts none.
    :param shape: ``spread`` over the day, ``burst`` (all at one instant), or ``late`` (over midnight).
    :param ends_after: how many days it takes until they end; until then they are under way.
    """

    model: str
    identity: str
    version: str | None = "hidden"
    status: str = "succeeded"
    deployment: str | None = None
    source: str | None = "api"
    kind: str = "predictions"
    runs: int = 12
    seconds: int | None = 90
    tokens: int | None = None
    shape: str = "spread"
    ends_after: int = 0


@dataclass(frozen=True)
class Run:
    """One run as it stands today; times and tokens that are not told are ``None``."""

    id: str
    use: Use
    status: str
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    microseconds: int | None
    input_tokens: int | None
    output_tokens: int | None

    @property
    def endpoint(self) -> str:
        """What the marts call the endpoint."""
        return f"{self.use.kind}/{self.use.source or '-'}/{self.status}/{self.use.version or '-'}"


@dataclass(frozen=True)
class Account:
    """
    A user or an organization.

    :param is_modern: whether its answers look as documented today.
    """

    account_id: str
    name: str
    kind: str
    uses: tuple[Use, ...]
    is_modern: bool = True


_FIRST = "39ed52f2a78e934b3ba6e2a89f5b1c712de7dfea535525255b1aa35c5565e08b"
_SECOND = "7c1b20f7a21e4d1a4f1f9a3a1d7d0a0b5e2c3d4f5061728394a5b6c7d8e9f001"
_LLAMA, _LLAMA_IS = "meta/meta-llama-3-70b-instruct", "meta/llama3-70b-instruct"
_SHOTS, _PROD = "sandbox-studio/product-shots", "sandbox-studio/product-shots-prod"
_TRAINER = "ostris/flux-dev-lora-trainer"

STUDIO = Account(
    "sandbox-studio",
    "Sandbox Studio; 'quoted' & \u00fcmlauted",
    "organization",
    (
        Use(_LLAMA, _LLAMA_IS, runs=30, tokens=8000),
        Use(_LLAMA, _LLAMA_IS, source="web", tokens=400, runs=4),
        Use(_LLAMA, _LLAMA_IS, status="failed", seconds=None, runs=3),
        Use("anthropic/claude-4-sonnet", "anthropic/claude-4-sonnet", tokens=4_000_000_000_000, runs=5),
        Use("black-forest-labs/flux-1.1-pro", "black-forest-labs/flux-1-1-pro", runs=20, seconds=7),
        Use("black-forest-labs/flux-1.1-pro", "black-forest-labs/flux-1-1-pro", shape="burst", runs=9),
        Use(_SHOTS, _SHOTS, _FIRST, deployment=_PROD, runs=15),
        Use(_SHOTS, _SHOTS, _FIRST, deployment=_PROD, shape="late", runs=4, seconds=1500),
        Use(_SHOTS, _SHOTS, _SECOND, status="failed", source="web", runs=3),
        Use(_SHOTS, _SHOTS, _SECOND, status="canceled", runs=3),
        Use(_SHOTS, _SHOTS, _SECOND, status="aborted", seconds=None, runs=2),
        Use(_SHOTS, _SHOTS, _SECOND, ends_after=5, runs=1, seconds=400_000),
        Use(_TRAINER, _TRAINER, _FIRST, kind="trainings", source="web", runs=2, seconds=2000),
        Use(_TRAINER, _TRAINER, _FIRST, kind="trainings", status="failed", runs=1, seconds=3),
        Use(_TRAINER, _TRAINER, _SECOND, kind="trainings", ends_after=4, runs=1, seconds=300_000),
    ),
)
TINKERER = Account(
    "sandbox-tinkerer",
    "Tilda Tinkerer",
    "user",
    (
        Use("stability-ai/sdxl", "stability/sdxl", _FIRST, source=None, runs=8),
        Use("sandbox-tinkerer/my.model_v2", "sandbox-tinkerer/my-model_v2", None, source=None, runs=3, seconds=10**7),
        Use("openai/whisper", "openai/whisper", _SECOND, source=None, shape="late", runs=2),
        Use(_TRAINER, _TRAINER, _FIRST, kind="trainings", source=None, runs=1, seconds=1200),
    ),
    is_modern=False,
)
ACCOUNTS = (STUDIO, TINKERER)


def seconds(microseconds: int) -> Decimal:
    """Return microseconds as seconds, with all their digits."""
    return Decimal(microseconds) / 10**6


class ReplicateTruth(ProviderTruth):
    """The truth about Replicate."""

    name = PROVIDER

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._drawn: dict[tuple[str, str, date], list[Run]] = {}
        self._drawn_for: tuple[int, date] | None = None

    @property
    def oldest_day(self) -> date:
        """The first day of which there are runs."""
        return self.world.anchor - timedelta(days=HISTORY_DAYS)

    def runs(self, account: Account, kind: str, day: date) -> list[Run]:
        """Return the runs created on a day, newest first. Of today there is half already."""
        state = (self.world.restatements.version, self.world.clock.today())
        if self._drawn_for != state:
            self._drawn, self._drawn_for = {}, state
        key = (account.account_id, kind, day)
        if key not in self._drawn:
            runs = [run for use in account.uses if use.kind == kind for run in self._runs(account, use, day)]
            self._drawn[key] = sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)
        return self._drawn[key]

    def expected_detail(self, first: date, last: date, accounts: Collection[str] | None = None) -> list[Row]:
        """Return one row per day, use and status."""
        rows = []
        for account in ACCOUNTS:
            if accounts is not None and account.account_id not in accounts:
                continue
            for day in days_between(max(first, self.oldest_day), last):
                found: dict[tuple[Use, str], list[Run]] = {}
                for kind in ("predictions", "trainings"):
                    for run in self.runs(account, kind, day):
                        found.setdefault((run.use, run.status), []).append(run)
                rows += [_detail(account, day, runs) for runs in found.values()]
        return in_detail_order(rows)

    def validate(self, restatement: Restatement) -> None:
        """Raise if the account or the model is unknown. Only whole days can be scaled, or vanish."""
        found = next((known for known in ACCOUNTS if known.account_id == restatement.account), None)
        if found is None:
            raise SandboxError(f"There is no account {restatement.account!r} in the sandbox's Replicate.")
        if restatement.region != "-":
            raise SandboxError("Replicate has no regions: say '-'.")
        if restatement.model not in (None, *(use.model for use in found.uses)):
            raise SandboxError(f"The account {found.account_id} has no model {restatement.model!r}.")
        if restatement.values is not None:
            raise SandboxError("A day of Replicate is made of single runs: give a factor, or let it vanish.")

    def _runs(self, account: Account, use: Use, day: date) -> Iterable[Run]:
        today = self.world.clock.today()
        if not self.oldest_day <= day <= today:
            return
        key = (self.world.seed, account.account_id, repr(use))
        age = (self.world.anchor - day).days
        # Neither skips the first start's own day, so that a newcomer's first look at today is never empty.
        if age % QUIET_EVERY == draw_between(1, QUIET_EVERY - 1, self.world.seed, account.account_id):
            return
        if age % IDLE_EVERY == draw_between(1, IDLE_EVERY - 1, *key):
            return
        number = draw_between(1, use.runs, *key, day)
        if day == today:
            number = (number + 1) // 2
        restated = self.world.restatements.find(PROVIDER, account.account_id, "-", use.model, day)
        if restated:
            number = restated.apply({"runs": number}).get("runs", 0)
        for n in range(number):
            yield _run(use, day, today, (*key, day, n))


TRUTH = ReplicateTruth


def _run(use: Use, day: date, today: date, key: tuple[object, ...]) -> Run:
    def some(most: int, *name: object) -> int:
        return draw_between(1, most, *key, *name)

    offset = {
        "spread": lambda: draw(*key, "at") % _MICROSECONDS_A_DAY,
        "late": lambda: _LATE + draw(*key, "at") % (_MICROSECONDS_A_DAY - _LATE),
        # The last part of the key is the number of the run, which those of one instant do not share.
        "burst": lambda: draw(*key[:-1], "at") % _MICROSECONDS_A_DAY,
    }[use.shape]()
    created = datetime.combine(day, time(), tzinfo=UTC) + timedelta(microseconds=offset)
    has_ended = today >= day + timedelta(days=use.ends_after)
    has_run = use.status != "aborted"
    took = some(use.seconds * 10**6, "took") if use.seconds else 1_000_000
    started = created + timedelta(microseconds=some(900_000, "queued"))
    is_told = has_ended and use.seconds is not None
    counts = is_told and use.tokens is not None
    return Run(
        id=f"{draw(*key, 'id'):016x}{draw(*key, 'more'):016x}"[:26],
        use=use,
        status=use.status if has_ended else "processing",
        created_at=created,
        started_at=started if has_run else None,
        completed_at=started + timedelta(microseconds=took) if has_ended else None,
        microseconds=took if is_told else None,
        input_tokens=some(use.tokens or 1, "input") if counts else None,
        output_tokens=some(use.tokens or 1, "output") // 4 if counts else None,
    )


def _detail(account: Account, day: date, runs: list[Run]) -> Row:
    use = runs[0].use

    def total(numbers: Iterable[int | None]) -> int | None:
        told = [number for number in numbers if number is not None]
        return sum(told) if told else None

    computed = total(run.microseconds for run in runs)
    tokens = total(run.input_tokens for run in runs)
    known: dict[str, Any] = {
        "usage_date": day,
        "provider": PROVIDER,
        "account_id": account.account_id,
        # The tinkerer's connection gives another name than the person's.
        "account_name": account.name if account.kind == "organization" else "Tinkering",
        "region": "unspecified",
        "model": use.identity,
        "raw_model_id": use.model,
        "endpoint": runs[0].endpoint,
        "project_id": use.deployment,
        "project_name": use.deployment,
    }
    return detail_row(
        **known,
        requests=len(runs),
        compute_seconds=None if computed is None else seconds(computed),
        input_tokens=tokens,
        unsplit_input_tokens=tokens,
        output_tokens=total(run.output_tokens for run in runs),
    )
