"""What goes wrong at AWS, and what the person on call is told."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from ai_usage.core.contract import Check
from ai_usage.core.errors import (
    ConfigurationInvalid,
    CredentialRejected,
    PermissionMissing,
    RateLimited,
    ResponseInvalid,
    SourceUnavailable,
    UsageError,
)
from ai_usage.providers import _cloudwatch
from sandbox.service import Sandbox
from sandbox.simulators.aws_bedrock import access_key, secret_key
from tests.core.http_server import Server, ok, self_signed
from tests.providers.aws import RESEARCH, TODAY, Clients, connection, expected, extract, provider
from tests.providers.test_aws_bedrock import days_ago

KEY, SECRET = access_key(RESEARCH), secret_key(RESEARCH)


def fail(sandbox: Sandbox, region: str = "us-east-1", days: int = 20, **changes: Any) -> UsageError:
    """Extract, and return the error; it names connection and region, and gives nothing away."""
    one = connection(sandbox, **changes)
    with pytest.raises(UsageError) as caught:
        extract(one, region, days_ago(days), TODAY)
    error = caught.value
    assert error.connection_id == one.connection_id
    shown = "".join(traceback.format_exception(error))
    for secret in (KEY, SECRET, "arn:aws:", "user/sandbox", "security token included"):
        assert secret not in shown
    assert error.action.endswith(".")
    return error


def checks(sandbox: Sandbox, **changes: Any) -> dict[str, Check]:
    """Return the checks by name, each with an action if it failed."""
    found = list(provider().check(connection(sandbox, **changes)))
    for check in found:
        assert check.passed is not False or (check.action and check.kind)
        assert KEY not in f"{check}"
        assert SECRET not in f"{check}"
    return {check.name: check for check in found}


def passed(found: dict[str, Check]) -> dict[str, bool | None]:
    return {name: check.passed for name, check in found.items()}


# ---------------------------------------------------------------- incomplete and wrong content


def test_partial_data_without_a_way_on_is_never_taken_for_whole(sandbox: Sandbox) -> None:
    sandbox.faults.add("partial_data_without_token", operation="GetMetricData")
    error = fail(sandbox)
    assert isinstance(error, SourceUnavailable)
    assert "PartialData" in str(error)
    assert sandbox.requests.count(operation="GetMetricData") == 3


def test_partial_data_that_comes_whole_the_next_time_is_survived(sandbox: Sandbox) -> None:
    sandbox.faults.add("partial_data_without_token", operation="GetMetricData", times=2)
    found = extract(connection(sandbox), "us-east-1", days_ago(20), TODAY)
    assert found == expected(sandbox, RESEARCH, "us-east-1", days_ago(20), TODAY)


@pytest.mark.parametrize("kind", ["partial_data_forever", "cursor_loop", "cursor_ping_pong"])
@pytest.mark.parametrize("operation", ["ListMetrics", "GetMetricData"])
def test_pages_without_end_are_found_out_in_seconds(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, operation=operation)
    began = time.monotonic()
    error = fail(sandbox)
    assert isinstance(error, ResponseInvalid)
    assert "pages do not come to an end" in str(error)
    assert time.monotonic() - began < 5


def test_an_internal_error_of_one_series_is_asked_for_again(sandbox: Sandbox) -> None:
    sandbox.faults.add("result_internal_error", operation="GetMetricData", times=1)
    one = connection(sandbox)
    found = extract(one, "us-east-1", days_ago(20), TODAY)
    assert found == expected(sandbox, RESEARCH, "us-east-1", days_ago(20), TODAY)
    assert one.journal.retries == 1


def test_an_internal_error_that_stays_is_an_outage(sandbox: Sandbox) -> None:
    sandbox.faults.add("result_internal_error")
    error = fail(sandbox)
    assert isinstance(error, SourceUnavailable)
    assert "InternalError" in str(error)
    assert sandbox.requests.count(operation="GetMetricData") == 3


def test_a_forbidden_series_is_a_missing_permission(sandbox: Sandbox) -> None:
    sandbox.faults.add("result_forbidden")
    error = fail(sandbox)
    assert isinstance(error, PermissionMissing)
    assert error.permission == "cloudwatch:GetMetricData"


@pytest.mark.parametrize("kind", ["misaligned_timestamps", "non_integer_value"])
def test_content_that_cannot_be_right_is_refused(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind)
    assert isinstance(fail(sandbox), ResponseInvalid)


def test_a_failure_yields_no_record_at_all(sandbox: Sandbox) -> None:
    # The second of the two batches fails.
    sandbox.faults.add("access_denied", operation="GetMetricData", after=1)
    bedrock, one = provider(), connection(sandbox, model_ids=[f"model-{n}" for n in range(60)])
    scope = bedrock.scopes(one)[0]
    records = bedrock.extract(one, bedrock.streams[0], scope, _window(20))
    with pytest.raises(PermissionMissing):
        next(records)
    assert sandbox.requests.count(operation="GetMetricData") == 2


def _window(days: int) -> Any:
    from ai_usage.core.slices import Window

    return Window(days_ago(days), TODAY)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("operation", ["ListMetrics", "GetMetricData"])
def test_a_missing_permission_names_the_action_and_the_region_and_is_not_asked_again(
    sandbox: Sandbox, operation: str
) -> None:
    sandbox.faults.add("access_denied", operation=operation, region="us-east-1")
    error = fail(sandbox)
    assert isinstance(error, PermissionMissing)
    assert error.permission == f"cloudwatch:{operation}"
    assert "us-east-1" in error.happened
    assert f"cloudwatch:{operation}" in error.action
    assert error.scope == "us-east-1"
    assert sandbox.requests.count(operation=operation) == 1


def test_one_denied_region_leaves_the_others_alone(sandbox: Sandbox) -> None:
    sandbox.faults.add("access_denied", region="us-west-2")
    one = connection(sandbox)
    for region in ("us-east-1", "eu-central-1"):
        found = extract(one, region, days_ago(5), TODAY)
        assert found == expected(sandbox, RESEARCH, region, days_ago(5), TODAY)
    with pytest.raises(PermissionMissing):
        extract(one, "us-west-2", days_ago(5), TODAY)


def test_a_throttled_call_is_repeated_and_counted(sandbox: Sandbox) -> None:
    sandbox.faults.add("throttling", operation="GetMetricData", times=1)
    one = connection(sandbox)
    found = extract(one, "us-east-1", days_ago(5), TODAY)
    assert found == expected(sandbox, RESEARCH, "us-east-1", days_ago(5), TODAY)
    assert (one.journal.retries, one.journal.throttled) == (1, 1)


def test_throttling_that_stays_is_named_after_bounded_repeats(sandbox: Sandbox) -> None:
    sandbox.faults.add("throttling", operation="GetMetricData")
    error = fail(sandbox, attempts=3)
    assert isinstance(error, RateLimited)
    assert not error.is_permanent
    assert sandbox.requests.count(operation="GetMetricData") == 3


@pytest.mark.parametrize("kind", ["internal_error", "service_unavailable"])
def test_an_outage_is_repeated_and_then_named(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, operation="ListMetrics", times=1)
    one = connection(sandbox)
    assert extract(one, "us-east-1", days_ago(5), TODAY)
    sandbox.faults.clear()
    sandbox.faults.add(kind, operation="ListMetrics")
    assert isinstance(fail(sandbox), SourceUnavailable)


def test_an_unknown_key_is_rejected(sandbox: Sandbox) -> None:
    error = fail(sandbox, key="AKIANOBODYKNOWSTHIS1")
    assert isinstance(error, CredentialRejected)
    assert "does not know the access key" in str(error)


def test_a_wrong_secret_is_rejected(sandbox: Sandbox) -> None:
    error = fail(sandbox, secret="not-the-secret-of-this-key")
    assert isinstance(error, CredentialRejected)
    assert "secret does not belong" in str(error)


def test_an_expired_session_is_rejected(sandbox: Sandbox) -> None:
    error = fail(sandbox, key="EXPIREDSANDBOX", token="token-of-yesterday")
    assert isinstance(error, CredentialRejected)
    assert "expired" in str(error)


@pytest.mark.parametrize("kind", ["invalid_credentials", "expired_token"])
def test_a_key_that_is_revoked_in_the_middle_of_a_run_is_noticed(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, after=2)
    assert isinstance(fail(sandbox), CredentialRejected)


def test_a_region_that_is_not_enabled_is_told_apart_from_a_bad_key(sandbox: Sandbox) -> None:
    sandbox.faults.add("opt_in_region_disabled", region="eu-central-1")
    error = fail(sandbox, region="eu-central-1")
    assert isinstance(error, ConfigurationInvalid)
    assert "eu-central-1" in error.happened
    assert "not enabled" in error.happened


def test_the_account_is_learnt_even_if_the_connections_own_region_is_not_enabled(sandbox: Sandbox) -> None:
    sandbox.faults.add("opt_in_region_disabled", region="eu-central-1")
    one = connection(sandbox, region_name="eu-central-1")
    assert {scope.account_id for scope in provider().scopes(one)} == {RESEARCH.account_id}


def test_a_bad_key_stays_a_bad_key_when_the_region_is_asked_too(sandbox: Sandbox) -> None:
    sandbox.faults.add("invalid_credentials")
    assert isinstance(fail(sandbox), CredentialRejected)


def test_doubt_about_a_key_while_sts_is_down_is_an_outage(sandbox: Sandbox) -> None:
    sandbox.faults.add("opt_in_region_disabled", operation="ListMetrics")
    sandbox.faults.add("service_unavailable", operation="GetCallerIdentity", after=1)
    assert isinstance(fail(sandbox), SourceUnavailable)


# ---------------------------------------------------------------- broken answers


@pytest.mark.parametrize("operation", ["ListMetrics", "GetMetricData", "GetCallerIdentity"])
@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_body", "empty_object"])
def test_a_broken_answer_is_never_taken_for_no_usage(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, operation=operation)
    error = fail(sandbox, days=5)
    assert isinstance(error, (SourceUnavailable, ResponseInvalid))


@pytest.mark.parametrize("operation", ["ListMetrics", "GetMetricData"])
@pytest.mark.parametrize("kind", ["truncated_body", "connection_reset", "html_body", "empty_object"])
def test_one_broken_answer_is_survived(sandbox: Sandbox, kind: str, operation: str) -> None:
    sandbox.faults.add(kind, operation=operation, times=1)
    found = extract(connection(sandbox), "us-east-1", days_ago(5), TODAY)
    assert found == expected(sandbox, RESEARCH, "us-east-1", days_ago(5), TODAY)


def test_a_dripping_answer_is_given_up_at_the_deadline(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cloudwatch, "DEADLINE", 1.0)
    sandbox.faults.add("slow_drip", operation="ListMetrics", milliseconds=200)
    began = time.monotonic()
    assert isinstance(fail(sandbox), SourceUnavailable)
    assert time.monotonic() - began < 4


def test_nobody_at_the_address_is_an_outage(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    one.client = Clients("http://127.0.0.1:1", KEY, SECRET, attempts=1)
    with pytest.raises(SourceUnavailable, match="could not be reached"):
        extract(one, "us-east-1", days_ago(5), TODAY)


def test_a_certificate_that_nobody_vouches_for_is_a_matter_of_configuration(sandbox: Sandbox, tmp_path: Path) -> None:
    with Server([ok({})], context=self_signed(tmp_path)) as server:
        one = connection(sandbox)
        one.client = Clients(server.url, KEY, SECRET, attempts=1)
        with pytest.raises(ConfigurationInvalid, match="certificate"):
            extract(one, "us-east-1", days_ago(5), TODAY)
        assert server.requests == []


# ---------------------------------------------------------------- check


def test_a_healthy_connection_passes_every_check(sandbox: Sandbox) -> None:
    found = checks(sandbox)
    assert set(passed(found).values()) == {True}
    assert list(found)[:3] == ["settings", "credential", "account"]
    for region in RESEARCH.regions:
        assert "were used" in found[f"usage in {region}"].message
    assert sandbox.requests.count() == 1 + 3 * len(RESEARCH.regions)


def test_a_region_with_nothing_to_read_passes_with_a_warning(sandbox: Sandbox) -> None:
    check = checks(sandbox, regions=["ap-southeast-2"])["usage in ap-southeast-2"]
    assert (check.passed, check.kind) == (True, "no_usage")
    assert check.message.startswith("Warning")
    assert check.action


@pytest.mark.parametrize(
    ("changes", "name", "kind"),
    [
        ({"key": "AKIANOBODYKNOWSTHIS1"}, "credential", "credential_rejected"),
        ({"secret": "wrong"}, "credential", "credential_rejected"),
        ({"key": "EXPIREDSANDBOX", "token": "old"}, "credential", "credential_rejected"),
        ({"account_id": "111122223333"}, "account", "wrong_account"),
    ],
    ids=["bad key", "bad secret", "expired", "wrong account"],
)
def test_a_check_stops_at_what_makes_the_rest_pointless(
    sandbox: Sandbox, changes: dict[str, Any], name: str, kind: str
) -> None:
    found = checks(sandbox, **changes)
    assert (found[name].passed, found[name].kind) == (False, kind)
    rest = [check for check in found.values() if check.scope]
    assert {check.passed for check in rest} == {None}
    assert {check.scope for check in rest} == set(RESEARCH.regions)
    assert sandbox.requests.count(operation="ListMetrics") == 0


@pytest.mark.parametrize("action", ["ListMetrics", "GetMetricData"])
def test_a_check_tells_the_two_permissions_apart(sandbox: Sandbox, action: str) -> None:
    sandbox.faults.add("access_denied", operation=action, region="us-west-2")
    found = checks(sandbox)
    other = {"ListMetrics": "GetMetricData", "GetMetricData": "ListMetrics"}[action]
    denied = found[f"cloudwatch:{action} in us-west-2"]
    assert (denied.passed, denied.kind, denied.scope) == (False, "permission_missing", "us-west-2")
    assert found[f"cloudwatch:{other} in us-west-2"].passed is True
    assert found[f"cloudwatch:{action} in us-east-1"].passed is True


def test_a_check_names_the_region_that_is_not_enabled(sandbox: Sandbox) -> None:
    sandbox.faults.add("opt_in_region_disabled", region="eu-central-1")
    found = checks(sandbox)
    check = found["cloudwatch:ListMetrics in eu-central-1"]
    assert (check.passed, check.kind) == (False, "configuration_invalid")
    assert "not enabled" in check.message
    assert found["cloudwatch:GetMetricData in eu-central-1"].passed is None
    assert found["cloudwatch:GetMetricData in us-east-1"].passed is True


def test_a_check_of_wrong_settings_asks_nothing(sandbox: Sandbox) -> None:
    found = checks(sandbox, regions=["nowhere"])
    assert passed(found) == {"settings": False}
    assert sandbox.requests.count() == 0


def test_a_check_during_an_outage_says_so(sandbox: Sandbox) -> None:
    sandbox.faults.add("service_unavailable", region="us-west-2")
    check = checks(sandbox)["cloudwatch:ListMetrics in us-west-2"]
    assert (check.passed, check.kind) == (False, "source_unavailable")
