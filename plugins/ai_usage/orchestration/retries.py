"""Which failures are worth another try: decided by the kind of error, as the provider contract names it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

from ai_usage.core.errors import RateLimited, UsageError

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

# Longer waits are left to the next scheduled run, which asks for the same slices again.
LONGEST_WAIT = timedelta(hours=1)


class RetryByKind(RetryPolicy):
    """Fail at once when only a person can help; wait as long as the provider asked; otherwise retry as the task says."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Decide by the error's kind."""
        if not isinstance(exception, UsageError):
            return RetryDecision.default()
        if exception.is_permanent:
            return RetryDecision.fail(reason=f"{exception.kind}: another try would end the same way")
        if isinstance(exception, RateLimited) and exception.retry_after is not None:
            delay = min(timedelta(seconds=exception.retry_after), LONGEST_WAIT)
            return RetryDecision.retry(delay=delay, reason=f"the provider asked to wait {delay}")
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        """Return what the scheduler keeps of the policy: it has no settings."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> RetryByKind:
        """Return the policy."""
        return cls()
