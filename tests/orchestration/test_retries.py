"""Which failures Airflow tries again, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    NotEntitled,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
    WarehouseUnavailable,
)
from ai_usage.orchestration.retries import RetryByKind


def decide(error: BaseException) -> tuple[str, timedelta | None]:
    decision = RetryByKind().evaluate(error, try_number=1, max_tries=3)
    return decision.action.value, decision.retry_delay


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationInvalid("It is wrong.", action="Do it."),
        CredentialRejected("It is rejected.", action="Do it."),
        PermissionMissing("It is missing.", permission="read", action="Do it."),
        NotEntitled("It is not bought.", action="Do it."),
        ResponseInvalid("It is no JSON.", action="Do it."),
    ],
)
def test_what_only_a_person_can_mend_is_not_tried_again(error: UsageError) -> None:
    assert decide(error)[0] == "fail"


@pytest.mark.parametrize(
    "error",
    [
        SourceUnavailable("It is down.", action="Do it."),
        WarehouseUnavailable("It is down.", action="Do it."),
        KeyError("bug"),
    ],
)
def test_what_may_pass_is_tried_again_as_the_task_says(error: BaseException) -> None:
    assert decide(error) == ("default", None)


@pytest.mark.parametrize(
    ("asked", "waits"), [(90.0, timedelta(seconds=90)), (86_400.0, timedelta(hours=1)), (0.0, timedelta(0))]
)
def test_a_rate_limit_waits_as_long_as_the_provider_asked_but_never_over_an_hour(
    asked: float, waits: timedelta
) -> None:
    assert decide(RateLimited("Slow down.", retry_after=asked, action="Do it.")) == ("retry", waits)


def test_a_rate_limit_without_a_time_waits_as_the_task_says() -> None:
    assert decide(RateLimited("Slow down.", action="Do it.")) == ("default", None)
