"""Builds that overlap with each other, with loads, and with their own retry."""

from __future__ import annotations

from datetime import date

from tests.dbt.bedrock_ledger import record
from tests.dbt.conftest import Dbt
from tests.dbt.oracle import expected_usage_daily

NOVA = "amazon.nova-pro-v1:0"
FIRST, SECOND = date(2026, 5, 1), date(2026, 5, 2)


def _load(dbt: Dbt, day: date, invocations: int) -> None:
    dbt.ledger.load("aws_bedrock_default", "us-east-1", day, [record(NOVA, {"Invocations": invocations})])


def _first_build(dbt: Dbt) -> None:
    dbt.ledger.scope("aws_bedrock_default", "us-east-1", "123456789012")
    _load(dbt, FIRST, 1)
    _load(dbt, SECOND, 1)
    dbt.transform("--exclude-resource-type", "unit_test", "test")


def test_two_builds_at_once_leave_every_row_once(dbt: Dbt) -> None:
    _first_build(dbt)

    for turn in range(2, 4):
        _load(dbt, FIRST, turn)
        builds = [(dbt.start("build", "--exclude-resource-type", "unit_test", target=name), name) for name in "ab"]
        _load(dbt, SECOND, turn)  # some models of the two builds see it, some do not
        outcomes = [dbt.finish(process, name) for process, name in builds]

        assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes[0].output + outcomes[1].output

    dbt.transform("--exclude-resource-type", "unit_test")
    assert dbt.usage_daily() == expected_usage_daily(dbt.ledger)


def test_a_retry_finishes_the_days_that_the_failed_build_began(dbt: Dbt) -> None:
    _first_build(dbt)
    _load(dbt, FIRST, 7)
    pending = dbt.ledger.pending()
    before = dbt.usage_daily()

    # Somebody holds the mart: the build gives up on it when its patience is over, and keeps what it had done before.
    with dbt.warehouse.warehouse.session("ai_usage_transformer") as holder:
        holder.execute("lock table marts.usage_daily in share row exclusive mode")
        broken = dbt.run("build", "--exclude-resource-type", "unit_test", PGOPTIONS="-c lock_timeout=200ms")
    assert broken.exit_code == 1
    assert broken.statuses["usage_daily_detail"] == "success"
    assert broken.statuses["usage_daily"] == "error"
    assert dbt.usage_daily() == before

    built = expected_usage_daily(dbt.ledger)
    _load(dbt, SECOND, 9)  # too late for this build, and not lost
    retried = dbt.run("retry")
    assert retried.exit_code == 0, retried.output
    assert "usage_daily_detail" not in retried.statuses
    assert dbt.usage_daily() == built

    dbt.ledger.consume(pending)
    dbt.transform("--exclude-resource-type", "unit_test")
    assert dbt.usage_daily() == expected_usage_daily(dbt.ledger)


def test_the_tests_of_the_project_notice_a_mart_that_lies(dbt: Dbt) -> None:
    _first_build(dbt)
    dbt.warehouse.query("update marts.usage_daily set requests = requests + 1 where usage_date = %s", FIRST)
    dbt.warehouse.query(
        "delete from intermediate.int_usage_meters where usage_date = %s and meter = 'requests'", SECOND
    )

    outcome = dbt.run("test", "--exclude-resource-type", "unit_test")

    failed = {name for name, status in outcome.statuses.items() if status == "fail"}
    assert failed == {"usage_daily_adds_up_to_the_meters", "aws_bedrock_keeps_every_record_and_number"}
