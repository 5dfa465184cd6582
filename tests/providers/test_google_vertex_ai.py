"""Google Vertex AI: every record equals the truth, by SQL that is executed, within a cap, in as few calls as can be."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest

from ai_usage.core.errors import ConfigurationInvalid, ResponseInvalid
from ai_usage.core.planner import expected_days
from ai_usage.core.slices import Window, windows_covering
from ai_usage.providers._google_vertex_ai import Bounds, Selection, export_of, question, records
from sandbox.service import Sandbox
from sandbox.truth.google_vertex_ai import COMPANY, LAB, VERTEX, Account
from tests.providers.aws import TODAY
from tests.providers.google import DAY, connection, days_ago, expected, extract, numbers, provider, truth

ACCOUNTS = pytest.mark.parametrize("account", [COMPANY, LAB], ids=["standard export", "detailed export"])


# ---------------------------------------------------------------- values


@ACCOUNTS
def test_every_record_of_thirty_days_equals_the_truth(sandbox: Sandbox, account: Account) -> None:
    found = extract(connection(sandbox, account), days_ago(29))

    assert numbers(found) == expected(sandbox, account, days_ago(29))
    assert found


def test_a_record_has_declared_fields_only_and_names_the_resource_where_the_export_does(sandbox: Sandbox) -> None:
    stream = provider().streams[0]
    for account in (COMPANY, LAB):
        found = [record for _, record in extract(connection(sandbox, account), days_ago(9))]
        assert all(stream.fields.issuperset(record) for record in found)
        assert all(
            set(record) & {"resource_name"} == ({"resource_name"} if account is LAB else set()) for record in found
        )


def test_the_text_of_a_sku_stays_as_google_writes_it(sandbox: Sandbox) -> None:
    found = {record["sku_description"] for _, record in extract(connection(sandbox), days_ago(9))}
    assert " Gemini 2.5 Flash GA Input Text Caching" in found
    assert any("\u2014" in text for text in found)


def test_reading_day_by_day_gives_the_same_as_reading_at_once(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    google = provider()
    at_once = extract(one, days_ago(6), google=google)
    by_day = [extract(one, days_ago(n), days_ago(n), google) for n in range(7)]
    assert [record for day in reversed(by_day) for record in day] == at_once


def test_a_day_is_added_up_whole_from_rows_that_came_days_later(sandbox: Sandbox) -> None:
    """The last third of a day's rows lies in a partition three days younger; neither end of the window loses them."""
    day = days_ago(9)
    found = extract(connection(sandbox), day, day)
    assert numbers(found) == expected(sandbox, COMPANY, day, day)
    assert {record["row_count"] for _, record in found} == {3}
    youngest = max(record["exported_at"] for _, record in found)
    assert youngest == datetime(day.year, day.month, day.day + 3, 22, tzinfo=UTC).isoformat()


@pytest.mark.parametrize("factor", ["0.5", "2", "0", "1"])
def test_a_corrected_day_is_read_as_corrected(sandbox: Sandbox, factor: str) -> None:
    day = days_ago(5)
    sandbox.truth.restate(provider="google_vertex_ai", account=COMPANY.account_id, region="-", day=day, factor=factor)
    found = extract(connection(sandbox), day, day)
    assert numbers(found) == expected(sandbox, COMPANY, day, day)


def test_a_correction_on_the_next_invoice_stands_apart(sandbox: Sandbox) -> None:
    day = days_ago(6)
    account = COMPANY.account_id
    model = COMPANY.lines[0].model
    sandbox.truth.restate(provider="google_vertex_ai", account=account, region="-", day=day, model=model, factor="0.5")
    found = [record for _, record in extract(connection(sandbox), day, day)]
    months = {record["invoice_month"] for record in found}
    assert months == {f"{day:%Y%m}", f"{day.replace(month=day.month + 1):%Y%m}"}
    assert all(record["cost"] < 0 for record in found if record["invoice_month"] == max(months))


def test_what_vanishes_from_the_bill_vanishes_here(sandbox: Sandbox) -> None:
    day = days_ago(7)
    sandbox.truth.restate(provider="google_vertex_ai", account=LAB.account_id, region="-", day=day, vanish=True)
    one = connection(sandbox, LAB)
    assert extract(one, day, day) == []
    assert one.journal.unanswered == set(), "the export was written since, so there was nothing on that day"


def test_credits_are_told_by_type_and_never_multiply_the_cost(sandbox: Sandbox) -> None:
    found = [record for _, record in extract(connection(sandbox), days_ago(29))]
    types = {kind for record in found for kind in record.get("credits_by_type", {})}
    assert types == {"PROMOTION", "FREE_TIER", "COMMITTED_USAGE_DISCOUNT"}
    assert any(record["cost"] + record["credits"] == 0 < record["cost"] for record in found), (
        "trial credits pay for all"
    )
    assert all(sum(record.get("credits_by_type", {}).values()) == record["credits"] for record in found)


def test_other_services_and_tax_are_left_alone(sandbox: Sandbox) -> None:
    found = {record["service_description"] for _, record in extract(connection(sandbox), days_ago(29))}
    assert found == {"Vertex AI", "Gemini API", "Claude Opus 5", "Claude Sonnet 4.6"}


def test_a_service_can_be_added_by_its_id_or_its_name(sandbox: Sandbox) -> None:
    for options in ({"services": ["74B1-77CF-C302"]}, {"service_prefixes": "Vertex AI Search, Other"}):
        one = connection(sandbox, **options)
        found = {record["service_description"] for _, record in extract(one, days_ago(3))}
        assert "Vertex AI Search" in found


def test_a_service_that_counts_tokens_and_is_not_read_is_told_of(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_service", provider="google_vertex_ai")
    one = connection(sandbox)
    extract(one, days_ago(3))
    ((kind, message),) = [(note.kind, note.message) for note in one.journal.notes]
    assert kind == "service_not_read"
    assert "Nebula 3 (FFFF-0000-FFFF)" in message


# ---------------------------------------------------------------- calls and bytes


def test_thirty_days_cost_five_calls(sandbox: Sandbox) -> None:
    one = connection(sandbox)
    extract(one, days_ago(29))
    counted = sandbox.requests.to_json()["calls"]["google_vertex_ai"][COMPANY.account_id]["-"]
    assert counted == dict.fromkeys(["token", "tables.list", "tables.get", "jobs.insert", "jobs.query"], 1)
    assert one.journal.calls == 5
    assert one.journal.bytes_received > 10_000


def test_a_named_table_saves_the_call_that_looks_for_it(sandbox: Sandbox) -> None:
    extract(connection(sandbox, table=COMPANY.table), days_ago(29))
    assert sandbox.requests.count(operation="tables.list") == 0


def test_a_first_year_costs_eleven_calls(sandbox: Sandbox) -> None:
    google, one = provider(), connection(sandbox, start_date=days_ago(365).isoformat())
    stream = google.streams[0]
    days = expected_days(stream, TODAY, days_ago(365))
    assert days
    windows = windows_covering(days.days, stream.max_window_days)
    for window in windows:
        extract(one, window.first, window.last, google)
    assert len(windows) == 4
    assert sandbox.requests.count() == one.journal.calls == 3 + 4 * 2


def test_a_future_window_costs_no_call(sandbox: Sandbox) -> None:
    one, google = connection(sandbox), provider()
    (scope,) = google.scopes(one)
    sandbox.requests.reset()
    assert list(google.extract(one, google.streams[0], scope, Window(TODAY + DAY, TODAY + 3 * DAY))) == []
    assert sandbox.requests.count() == 0


def test_every_query_is_estimated_first_and_capped_and_the_log_has_both_figures(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    extract(connection(sandbox), days_ago(29))
    found = re.search(r"scans about ([0-9.]+) MB \(dry run\); the query is capped at ([0-9.]+) MB", caplog.text)
    assert found
    assert 0 < float(found[1]) < float(found[2])
    assert f"the query scanned {found[1]} MB" in caplog.text


def test_a_query_beyond_the_connections_limit_is_not_run(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationInvalid, match="that the connection permits") as caught:
        extract(connection(sandbox, max_gigabytes="0.001"), days_ago(29))
    assert "max_gigabytes" in caught.value.action
    assert sandbox.requests.count(operation="jobs.insert") == 1
    assert sandbox.requests.count(operation="jobs.query") == 0


@ACCOUNTS
def test_partitions_before_the_window_are_not_scanned(sandbox: Sandbox, account: Account) -> None:
    google, one = provider(), connection(sandbox, account)
    list(google.scopes(one))
    settings_free = Selection((VERTEX.id,), (), ())
    from ai_usage.providers._google_vertex_ai import BillingExport

    reader = BillingExport(one, ceiling=10**12)
    export = export_of(account.project, account.dataset, account.table)
    table = reader.describe(export)
    week, month = (reader.estimate(export, table, settings_free, Window(days_ago(days), TODAY)) for days in (7, 30))
    assert 0 < week < month / 2


@pytest.mark.parametrize(
    ("kind", "field", "clause"),
    [
        ("TABLE", None, "(_PARTITIONTIME >= @partition OR _PARTITIONTIME IS NULL) AND usage_start_time < @end"),
        ("TABLE", "usage_start_time", "usage_start_time >= @partition AND usage_start_time < @end"),
        ("TABLE", "export_time", "export_time >= @partition AND usage_start_time < @end"),
        ("TABLE", "something_else", "WHERE usage_start_time < @end"),
        ("VIEW", None, "WHERE usage_start_time < @end"),
    ],
)
def test_the_query_follows_the_tables_own_partitioning(kind: str, field: str | None, clause: str) -> None:
    table = SimpleNamespace(schema=[], table_type=kind, time_partitioning=SimpleNamespace(field=field))
    export = export_of("acme-billing", "export", "gcp_billing_export_v1_0123AB_CDEF01_234567")
    sql, parameters = question(export, table, Selection((), (), ()), Window(days_ago(3), days_ago(2)))
    assert clause in sql
    assert parameters["start"] == datetime(2026, 8, 12, tzinfo=UTC)
    assert parameters["end"] == datetime(2026, 8, 14, tzinfo=UTC)
    assert parameters.get("partition", datetime(2026, 8, 11, tzinfo=UTC)) == datetime(2026, 8, 11, tzinfo=UTC)
    assert export.account_id == "0123AB-CDEF01-234567"


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("kind", ["small_pages", "slow_job"])
def test_however_an_answer_is_cut_it_is_read_to_its_end(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="google_vertex_ai", size=40)
    found = extract(connection(sandbox), days_ago(9))
    assert numbers(found) == expected(sandbox, COMPANY, days_ago(9))
    assert sandbox.requests.count(operation="queries.get") > 0


@pytest.mark.parametrize("kind", ["page_twice", "cursor_loop", "empty_pages", "rows_missing"])
def test_an_answer_that_repeats_itself_or_lacks_rows_is_refused(sandbox: Sandbox, kind: str) -> None:
    sandbox.faults.add(kind, provider="google_vertex_ai")
    with pytest.raises(ResponseInvalid, match="announces") as caught:
        extract(connection(sandbox), days_ago(9))
    assert caught.value.connection_id == "google_test"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"usage_date": None}, "has no day"),
        ({"usage_date": days_ago(60)}, "was not asked for"),
        ({"cost": None}, "cost is missing"),
        ({"cost": Decimal("NaN")}, "cost is not a number"),
        ({"cost": 0.1}, "cost is not a number"),
        ({"currency": None}, "currency is missing"),
        ({"sku_id": None}, "sku_id is missing"),
        ({"reading": "dream"}, "no known kind"),
        ({"exported_at": None}, "when it was exported"),
        ({"location": 7}, "not a text"),
    ],
)
def test_a_row_that_makes_no_sense_refuses_the_whole_answer(
    sandbox: Sandbox, change: dict[str, object], problem: str
) -> None:
    good: dict[str, object] = {
        "usage_date": days_ago(2),
        "reading": "read",
        "service_id": VERTEX.id,
        "sku_id": "a",
        "sku_description": "b",
        "currency": "EUR",
        "cost": Decimal("1.50"),
        "exported_at": datetime(2026, 8, 14, tzinfo=UTC),
        "row_count": 1,
    }
    one, window = connection(sandbox), Window(days_ago(3), TODAY)
    (day,) = records([good], window, one)
    assert str(day.record["cost"]) == "1.5"
    with pytest.raises(ResponseInvalid, match=problem):
        records([good | change], window, one)
    with pytest.raises(ResponseInvalid, match="same row twice"):
        records([good, dict(good)], window, one)


# ---------------------------------------------------------------- what there is to read


def test_of_two_exports_of_one_account_one_is_read(sandbox: Sandbox) -> None:
    sandbox.faults.add("both_exports", provider="google_vertex_ai")
    one = connection(sandbox)
    assert [scope.name for scope in provider().scopes(one)] == [COMPANY.account_id]
    assert numbers(extract(one, days_ago(3))) == expected(sandbox, COMPANY, days_ago(3))


def test_each_billing_account_of_a_dataset_is_a_scope_that_fails_alone(sandbox: Sandbox) -> None:
    sandbox.faults.add("foreign_export", provider="google_vertex_ai")
    one, google = connection(sandbox, account_name="Acme"), provider()
    ours, gone = google.scopes(one)
    assert (ours.account_id, gone.account_id) == (COMPANY.account_id, "FFFFFF-000000-FFFFFF")
    assert ours.account_name is gone.account_name is None, "one name cannot stand for two accounts"
    window = Window(days_ago(3), TODAY)
    with pytest.raises(ConfigurationInvalid, match="There is no table"):
        list(google.extract(one, google.streams[0], gone, window))
    found = list(google.extract(one, google.streams[0], ours, window))
    assert numbers(found) == expected(sandbox, COMPANY, days_ago(3))
    (only,) = google.scopes(connection(sandbox, account_name="Acme", billing_account_id=COMPANY.account_id))
    assert (only.name, only.account_name) == (COMPANY.account_id, "Acme")


def test_an_export_begins_on_its_own_day_or_in_the_month_before(sandbox: Sandbox) -> None:
    opened = sandbox.truth.world.opened
    (company,) = provider().scopes(connection(sandbox, COMPANY))
    (lab,) = provider().scopes(connection(sandbox, LAB))
    assert lab.first_day == opened
    assert company.first_day == (opened.replace(day=1) - DAY).replace(day=1)
    (filled_by_hand,) = provider().scopes(connection(sandbox, LAB, start_date="2025-01-01"))
    assert filled_by_hand.first_day is not None
    assert filled_by_hand.first_day.year == 2025


def test_days_before_an_export_begins_are_not_taken_for_days_without_cost(sandbox: Sandbox) -> None:
    one, opened = connection(sandbox, LAB), sandbox.truth.world.opened
    found = extract(one, opened - 3 * DAY, opened + DAY)
    assert numbers(found) == expected(sandbox, LAB, opened, opened + DAY)
    assert one.journal.unanswered == {opened - n * DAY for n in (1, 2, 3)}


def test_days_after_an_export_was_last_written_are_not_taken_for_days_without_cost(sandbox: Sandbox) -> None:
    sandbox.faults.add("stalled", provider="google_vertex_ai")
    one = connection(sandbox)
    extract(one, days_ago(14))
    assert one.journal.unanswered == {days_ago(n) for n in range(4, 10)}
    (note,) = [note for note in one.journal.notes if note.kind == "export_stalled"]
    assert str(days_ago(10)) in note.message


def test_a_view_is_read_without_partitions(sandbox: Sandbox) -> None:
    sandbox.faults.add("view", provider="google_vertex_ai")
    one = connection(sandbox)
    assert numbers(extract(one, days_ago(3))) == expected(sandbox, COMPANY, days_ago(3))
    assert one.journal.unanswered == set()


def test_rows_that_come_too_late_for_the_look_back_are_told_of(sandbox: Sandbox) -> None:
    day = days_ago(60)
    assert dict(truth(sandbox).billed(COMPANY, day)), "choose a day with a bill"
    sandbox.truth.restate(provider="google_vertex_ai", account=COMPANY.account_id, region="-", day=day, factor="2")
    one = connection(sandbox)
    extract(one, days_ago(9))
    (note,) = [note for note in one.journal.notes if note.kind == "late_rows"]
    assert f"Google billed something for {day}" in note.message
    assert f"from and to {day}" in str(note.action)
    sandbox.truth.restate(provider="google_vertex_ai", account=COMPANY.account_id, region="-", day=day, factor="1")


def test_columns_that_google_adds_are_told_once_and_not_read(sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown_columns", provider="google_vertex_ai")
    one = connection(sandbox)
    extract(one, days_ago(3))
    assert [(note.kind, "moon_phase" in note.message) for note in one.journal.notes] == [("schema_drift", True)]


# ---------------------------------------------------------------- the check


def test_a_healthy_connection_passes_every_check_in_four_calls(sandbox: Sandbox) -> None:
    checks = list(provider().check(connection(sandbox)))
    assert [(check.name, check.passed) for check in checks] == [
        ("settings", True),
        ("export", True),
        ("queries", True),
        ("usage", True),
    ]
    assert "standard, EU" in checks[1].message
    assert "7 days scan" in checks[2].message
    assert sandbox.requests.count() == 4
    assert sandbox.requests.count(operation="jobs.query") == 0, "nothing that costs money"


def test_an_export_that_is_no_longer_written_is_a_warning(sandbox: Sandbox) -> None:
    sandbox.faults.add("stalled", provider="google_vertex_ai")
    check = list(provider().check(connection(sandbox)))[-1]
    assert (check.passed, check.kind) == (True, "no_usage")
    assert "last written" in check.message


def test_bounds_are_what_a_real_run_waits() -> None:
    assert Bounds().patience < Bounds().deadline
