"""``bin/ai-usage`` on a warehouse with all ten providers: sync, status, explain, export, rebuild, disconnect, purge."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.core.contract import Journal
from ai_usage.core.errors import SourceUnavailable
from ai_usage.core.slices import Window
from ai_usage.warehouse import ledger, loader
from ai_usage.warehouse.disconnecting import disconnect
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.commands.conftest import Filled, say
from tests.support.airflow import REPOSITORY
from tests.support.killing_proxy import KillingProxy
from tests.support.warehouse import Cluster

pytestmark = pytest.mark.timeout(600)

MEASURES = ("requests", "input_tokens", "output_tokens", "compute_seconds", "api_calls", "billed_cost")


def marts(filled: Filled, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with filled.warehouse.as_reader() as session:
        return session.execute(statement.encode(), values).fetchall()


# ---------------------------------------------------------------- sync and status


def test_sync_reads_every_source_and_builds_the_marts(filled: Filled) -> None:
    answer = filled.synced.json

    assert filled.synced.code == 0
    assert {source["provider"] for source in answer["sources"]} == set(providers.names())
    assert not [source for source in answer["sources"] if source["error"]]
    assert "connection-days rebuilt" in answer["transform"]
    assert {name for (name,) in marts(filled, "select distinct provider from marts.usage_daily")} == set(
        providers.names()
    )
    assert "openai_default · - · completions: reading" in filled.synced.err


def test_a_sync_without_anything_new_changes_nothing(filled: Filled) -> None:
    before = marts(filled, "select md5(string_agg(t::text, '|' order by t::text)) from marts.usage_daily as t")

    said = say("sync", "--provider", "anthropic", "--json")

    assert said.code == 0
    assert {source["slices_changed"] for source in said.json["sources"]} == {0}
    assert said.json["transform"].startswith("No slice changed")
    assert marts(filled, "select md5(string_agg(t::text, '|' order by t::text)) from marts.usage_daily as t") == before


def test_a_source_that_fails_stops_no_other_and_the_exit_code_says_so(filled: Filled) -> None:
    filled.sandbox.faults.add("access_denied", provider="aws_bedrock", region="us-west-2", operation="GetMetricData")
    try:
        said = say("sync", "aws_bedrock_research", "anthropic_default", "--no-transform", "--json")
    finally:
        filled.sandbox.faults.clear()
    by_label = {source["label"]: source["error"] for source in said.json["sources"]}

    assert said.code == 1
    assert said.json["transform"] is None
    assert by_label.pop("aws_bedrock_research · us-west-2")["kind"] == "permission_missing"
    assert len(by_label) == 3
    assert not any(by_label.values())
    assert say("status").code == 1
    assert say("sync", "aws_bedrock_research", "--no-transform").code == 0
    assert say("status").code == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sync", "nobody"], "nobody"),
        (["sync", "--provider", "nobody"], "nobody"),
        (["sync", "--from", "yesterday"], "YYYY-MM-DD"),
        (["sync", "--from", "2026-02-02", "--to", "2026-02-01"], "Swap"),
        (["explain", "--date", "2026-02-31"], "YYYY-MM-DD"),
        (["explain", "--date", "2026-02-01", "--provider", "nobody"], "nobody"),
        (["explain", "--date", "2026-02-01", "--limit", "0"], "--limit"),
        (["export", "--table", "nothing"], "usage_daily_detail"),
        (["export", "--table", "pg_authid"], "usage_daily_detail"),
        (["export", "--table", "dim_model", "--from", "2026-02-01"], "no day"),
        (["export", "--from", "yesterday"], "YYYY-MM-DD"),
        (["disconnect", "nobody", "--yes"], "no source"),
        (["purge", "nobody", "--yes"], "Nothing was ever read"),
        (["purge", "openai_default", "--yes"], "still a source"),
    ],
)
def test_what_cannot_be_carried_out_says_why_and_changes_nothing(
    filled: Filled, arguments: list[str], told: str
) -> None:
    before = filled.warehouse.query("select count(*) from ops.extraction")

    said = say(*arguments)

    assert said.code == 2
    assert said.out == ""
    assert told in said.err
    assert filled.warehouse.query("select count(*) from ops.extraction") == before


def test_status_shows_every_source_and_ends_well_while_all_is_well(filled: Filled) -> None:
    said = say("status", "--json")

    assert said.code == 0
    shown = {row["connection_id"]: row for row in said.json if row["connection_id"]}
    assert set(shown) >= {source["connection_id"] for source in filled.synced.json["sources"]}
    text = say("status").out
    assert all(name in text for name in shown)
    problems = {(row["connection_id"] or row["provider"], row["problem"]) for row in said.json if row["problem"]}
    assert problems
    for place, problem in problems:
        told = rf"^{re.escape(place)}( · .*)?: {re.escape(problem)}$"
        assert len(re.findall(told, text, re.MULTILINE)) == 1, (place, problem)


# ---------------------------------------------------------------- rebuild


def test_a_rebuild_from_raw_gives_the_same_marts_names_the_one_that_was_not_and_asks_no_provider(
    filled: Filled,
) -> None:
    from ai_usage.commands.rebuild import hashes

    if filled.warehouse.query("select 1 from ops.pending_rebuild limit 1"):
        assert say("sync", "authress_default").code == 0
    built = hashes(filled.warehouse.warehouse)
    filled.warehouse.query("update marts.usage_daily set requests = requests + 1 where provider = 'aws_bedrock'")
    filled.sandbox.requests.reset()

    said = say("rebuild", "--expect-identical", "--json")

    assert said.code == 1
    assert {one["mart"] for one in said.json["marts"]} >= {"usage_daily", "usage_daily_detail", "dim_model"}
    assert [one["mart"] for one in said.json["marts"] if one["verdict"] != "identical"] == ["usage_daily"]
    assert hashes(filled.warehouse.warehouse) == built
    assert filled.sandbox.requests.to_json()["total"] == 0


# ---------------------------------------------------------------- explain


@pytest.mark.parametrize("provider", providers.names())
def test_every_number_of_a_day_is_explained_down_to_the_records(filled: Filled, provider: str) -> None:
    said = say("explain", "--date", str(filled.day), "--provider", provider, "--limit", "1000", "--json")
    rows = marts(
        filled,
        f"select account_id, region, model, billed_currency, {', '.join(MEASURES)} from marts.usage_daily"
        " where usage_date = %s and provider = %s and model is not null",
        filled.day,
        provider,
    )

    assert said.code == 0
    explained = {
        tuple(one["row"][name] for name in ("account_id", "region", "model", "billed_currency")): one
        for one in said.json["rows"]
    }
    assert set(explained) == {row[:4] for row in rows}
    for row in rows:
        parts = explained[row[:4]]["parts"]
        for name, value in zip(MEASURES, row[4:], strict=True):
            assert _sum(part["measures"].get(name, {}).get("value") for part in parts) == value
        for part in parts:
            _assert_records_explain(provider, part)


def _assert_records_explain(provider: str, part: dict[str, Any]) -> None:
    meters: dict[str, Decimal] = {name: Decimal(quantity) for name, quantity in part["meters"].items()}
    for measure, made in part["measures"].items():
        assert sum(Decimal(quantity) for quantity in made["meters"].values()) == made["value"], measure
    assert part["records"], "a number without a record"
    assert len(part["records"]) == part["records_of_part"] <= part["records_of_slice"]
    assert {record["load_id"] for record in part["records"]} == {part["slice"]["load_id"]}
    adds: dict[str, Decimal] = {}
    for record in part["records"]:
        for meter, quantity in record["adds"].items():
            adds[meter] = adds.get(meter, Decimal(0)) + Decimal(quantity)
    for meter, agrees in part["adds_up"].items():
        assert agrees == (adds.get(meter) == meters[meter])
        # Fireworks splits the input of one record by what another one says: of these the whole alone is right.
        if (provider, meter) in {("fireworks", "uncached_input_tokens"), ("fireworks", "cache_read_tokens")}:
            continue
        assert agrees, f"{meter} of {part['part']}"


def _sum(values: Any) -> Decimal | None:
    found = [Decimal(value) for value in values if value is not None]
    return sum(found, Decimal(0)) if found else None


def test_where_records_are_weighed_together_it_is_said_of_which_meters(filled: Filled) -> None:
    asked = ("explain", "--date", str(filled.day), "--provider", "fireworks", "--limit", "1000")
    parts = [part for row in say(*asked, "--json").json["rows"] for part in row["parts"]]

    apart = {meter for part in parts for meter, agrees in part["adds_up"].items() if not agrees}
    assert apart == {"uncached_input_tokens", "cache_read_tokens"}
    assert "do not add up to cache_read_tokens, uncached_input_tokens: the provider's rules" in say(*asked).out


def test_a_restated_day_names_the_version_that_was_replaced_and_who_read_it(filled: Filled) -> None:
    said = say("explain", "--date", str(filled.day), "--account", "210987654321", "--region", "us-east-1", "--json")
    slices = [part["slice"] for row in said.json["rows"] for part in row["parts"]]

    assert slices
    (replaced,) = slices[0]["earlier_versions"]
    first = filled.synced.json["run_id"]
    assert replaced["run_id"] == first
    assert replaced["superseded_by"] == slices[0]["load_id"]
    assert slices[0]["run_id"] != first
    assert slices[0]["window_first"] <= str(filled.day) <= slices[0]["window_last"]
    restated = {one["meter"]: (one["old_value"], one["new_value"]) for one in slices[0]["restatements"]}
    old, new = restated["requests"]
    assert new > old > 0
    text = say("explain", "--date", str(filled.day), "--account", "210987654321", "--region", "us-east-1").out
    assert f"requests {old:,} → {new:,}" in text
    assert f"replaced: load {replaced['load_id']}" in text


def test_a_model_is_found_by_both_of_its_names(filled: Filled) -> None:
    ((model, raw),) = marts(
        filled,
        "select model, raw_model_id from marts.usage_daily_detail where provider = 'aws_bedrock' and usage_date = %s"
        " and raw_model_id <> model order by 1, 2 limit 1",
        filled.day,
    )

    for name in (model, raw):
        rows = say("explain", "--date", str(filled.day), "--model", name, "--json").json["rows"]
        assert {row["row"]["model"] for row in rows} == {model}


def test_a_row_that_is_not_there_is_explained_too(filled: Filled) -> None:
    stranger = say("explain", "--date", str(filled.day), "--provider", "openai", "--model", "openai/none-such")
    too_old = say("explain", "--date", "2020-01-01", "--provider", "openai")

    assert stranger.code == too_old.code == 1
    assert "Nothing was used on that day with model openai/none-such" in stranger.out
    assert "never expected" in too_old.out


def test_a_day_that_failed_is_explained_by_the_words_of_its_last_attempt(filled: Filled) -> None:
    region = {"provider": "aws_bedrock", "region": "us-west-2"}
    early = filled.day - timedelta(days=60)
    filled.sandbox.faults.add("access_denied", **region, operation="GetMetricData")
    try:
        asked = ("sync", "aws_bedrock_research", "--no-transform", "--from", str(early), "--to", str(early))
        assert say(*asked).code == 1
    finally:
        filled.sandbox.faults.clear()

    said = say("explain", "--date", str(early), "--region", "us-west-2", "--json")

    (gap,) = said.json["without_rows"]
    assert said.code == 1
    assert gap["state"] == "failed"
    assert "cloudwatch:GetMetricData" in gap["reason"]
    assert say(*asked).code == 0


def test_a_day_of_which_the_provider_said_nothing_is_not_explained_as_unread(filled: Filled) -> None:
    day, place = date(2019, 12, 31), Place("openai", "openai_default", "moderations", "-")
    with filled.warehouse.warehouse.session(LOADER) as session:
        window = Window(day, day)
        ledger.expect_slices(session, place, window)
        failed = ledger.begin_attempt(session, place, window, "before")
        ledger.fail_attempt(session, failed, SourceUnavailable("It is down.", action="Wait."), Journal())
        attempt = ledger.begin_attempt(session, place, window, "test")
    loader.load(
        filled.warehouse.warehouse,
        attempt,
        providers.load("openai").stream("moderations"),
        [],
        Journal(unanswered={day}),
    )

    said = say("explain", "--date", str(day), "--json")
    filled.warehouse.query("delete from ops.slice where usage_date = %s", day)

    (gap,) = said.json["without_rows"]
    assert gap["state"] == "missing"
    assert gap["reason"] == "The provider was asked, and says neither that there was usage nor that there was none."


# ---------------------------------------------------------------- export


def test_an_export_is_the_table_to_the_last_digit(filled: Filled) -> None:
    columns = ("usage_date", "provider", "account_id", "region", "model", "requests", "billed_cost")
    expected = marts(
        filled,
        f"select {', '.join(columns)} from marts.usage_daily where usage_date between %s and %s",
        filled.day,
        filled.day + timedelta(days=1),
    )
    asked = ("export", "--from", str(filled.day), "--to", str(filled.day + timedelta(days=1)))

    as_csv = list(csv.DictReader(io.StringIO(say(*asked).out)))
    as_json = json.loads(say(*asked, "--format", "json").out, parse_float=Decimal)

    def of_csv(row: dict[str, str]) -> tuple[Any, ...]:
        values = [row[name].removeprefix("'") or None for name in columns]
        numbers = [None if value is None else Decimal(value) for value in values[5:]]
        return (date.fromisoformat(str(values[0])), *values[1:5], *numbers)

    def of_json(row: dict[str, Any]) -> tuple[Any, ...]:
        return (date.fromisoformat(row["usage_date"]), *(row[name] for name in columns[1:]))

    assert len(expected) > 50
    assert sorted(map(of_csv, as_csv), key=str) == sorted(expected, key=str)
    assert sorted(map(of_json, as_json), key=str) == sorted(expected, key=str)
    assert [row["usage_date"] for row in as_csv] == sorted(row["usage_date"] for row in as_csv)


def test_a_name_that_a_spreadsheet_would_run_is_written_as_text(filled: Filled) -> None:
    from ai_usage.commands.export import cell

    runs = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "-"]
    filled.warehouse.query("create table marts.names (name text, quantity numeric)")
    filled.warehouse.query("grant select on marts.names to ai_usage_reader")
    for name in runs:
        filled.warehouse.query("insert into marts.names values (%s, -5)", name)

    try:
        cells = list(csv.reader(io.StringIO(say("export", "--table", "names").out, newline="")))[1:]
    finally:
        filled.warehouse.query("drop table marts.names")

    assert sorted(cells) == sorted([f"'{name}", "-5"] for name in runs)
    assert [cell(value) for value in ("-12", "+3.5", "plain", "a=b", "", None, True, Decimal("1E+3"))] == [
        *("-12", "+3.5", "plain", "a=b", "", "", "true", "1000")
    ]


def test_an_export_shows_what_a_reader_may_see_and_no_more(filled: Filled) -> None:
    filled.warehouse.query("create table marts.hidden (secret text)")
    try:
        said = say("export", "--table", "hidden")
    finally:
        filled.warehouse.query("drop table marts.hidden")

    assert said.code == 2
    assert "no mart 'hidden' that a reader may see" in said.err


# ---------------------------------------------------------------- as processes


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "ai_usage", *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_nothing_but_the_answer_is_on_standard_output(filled: Filled) -> None:
    said = process("export", "--from", str(filled.day), "--to", str(filled.day))

    assert said.returncode == 0, said.stderr
    rows = list(csv.reader(io.StringIO(said.stdout)))
    assert rows[0][:2] == ["usage_date", "provider"]
    assert {row[0] for row in rows[1:]} == {str(filled.day)}


def test_whoever_reads_the_first_lines_only_gets_them_without_a_complaint(filled: Filled) -> None:
    command = f"'{sys.executable}' -P -m ai_usage export --table usage_daily_detail | head -n 2"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins"), "PYTHONUNBUFFERED": "1"}

    said = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=120)

    assert len(said.stdout.splitlines()) == 2
    assert "BrokenPipe" not in said.stderr
    assert "Traceback" not in said.stderr


# ---------------------------------------------------------------- disconnect and purge


@pytest.fixture(autouse=True, scope="module")
def airflow_forgets(filled: Filled) -> Iterator[None]:
    """Leave nothing in Airflow's database, which other tests of this process read as well."""
    yield
    from airflow.models import Connection, Variable
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(Connection).delete()
        session.query(Variable).delete()


def keep_in_airflow(connection_id: str, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Move a connection of the environment, and the list of sources, into Airflow's database."""
    from airflow.models import Connection, Variable
    from airflow.utils.session import create_session

    variable = f"AIRFLOW_CONN_{connection_id.upper()}"
    found = json.loads(os.environ[variable])
    listed = json.loads(os.environ["AIRFLOW_VAR_AI_USAGE_CONNECTIONS"])
    monkeypatch.delenv(variable)
    monkeypatch.delenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS")
    extra = found.pop("extra", None)
    with create_session() as session:
        session.query(Connection).filter(Connection.conn_id == connection_id).delete()
        session.query(Variable).delete()
        known = {name: value for name, value in found.items() if name in ("conn_type", "login", "password", "host")}
        session.add(Connection(conn_id=connection_id, extra=json.dumps(extra) if extra else None, **known))
        session.add(Variable(key="ai_usage_connections", val=json.dumps(listed)))
    assert connection_id in listed[provider]


def in_airflow(connection_id: str) -> tuple[bool, dict[str, list[str]]]:
    """Return whether Airflow's database has the connection, and what its Variable lists."""
    from airflow.models import Connection, Variable
    from airflow.utils.session import create_session

    with create_session() as session:
        is_there = session.query(Connection).filter(Connection.conn_id == connection_id).count() > 0
        variable = session.query(Variable).filter(Variable.key == "ai_usage_connections").one()
        return is_there, json.loads(variable.get_val())


def test_a_source_is_taken_out_of_airflow_and_its_history_stays(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_in_airflow("groq_lab", "groq", monkeypatch)
    before = filled.warehouse.query("select count(*) from ops.load where connection_id = 'groq_lab'")

    refused = say("disconnect", "groq_lab")
    said = say("disconnect", "groq_lab", "--yes")

    assert refused.code == 2
    assert "nobody said yes" in refused.err
    assert said.code == 0
    is_there, listed = in_airflow("groq_lab")
    assert not is_there
    assert "groq_lab" not in listed.get("groq", [])
    assert "openai_lab" in listed["openai"]
    assert providers.load("groq").revoke in said.out
    assert "bin/ai-usage purge groq_lab" in said.out
    assert filled.warehouse.query("select count(*) from ops.load where connection_id = 'groq_lab'") == before
    told = filled.warehouse.query(
        "select kind from ops.event where connection_id = 'groq_lab' order by event_id desc limit 1"
    )
    assert told == [("disconnected",)]
    ((when,),) = filled.warehouse.query("select disconnected_at from ops.connection where connection_id = 'groq_lab'")
    assert when is not None
    assert say("disconnect", "groq_lab", "--yes", "--json").json["is_disconnected"] is True
    assert filled.warehouse.query(
        "select count(*) from ops.event where connection_id = 'groq_lab' and kind = 'disconnected'"
    ) == [(1,)]


def test_what_only_a_person_can_remove_is_named_and_the_source_stays_one_until_then(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = say("disconnect", "fireworks_lab", "--yes", "--json")

    assert said.code == 1
    assert said.json["is_disconnected"] is False
    first, second = said.json["to_remove"]
    assert "AIRFLOW_CONN_FIREWORKS_LAB" in first
    assert "AIRFLOW_VAR_AI_USAGE_CONNECTIONS" in second
    assert "fireworks_lab" not in second.split(" to ", 1)[1]
    assert filled.warehouse.query(
        "select disconnected_at from ops.connection where connection_id = 'fireworks_lab'"
    ) == [(None,)]

    monkeypatch.delenv("AIRFLOW_CONN_FIREWORKS_LAB")
    monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", second.split(" to ", 1)[1])
    assert say("disconnect", "fireworks_lab", "--yes").code == 0


def test_a_source_that_is_back_is_connected_again_as_soon_as_it_is_synced(filled: Filled) -> None:
    def states() -> dict[str, str]:
        return {row["connection_id"]: row["state"] for row in say("status", "--json").json if row["scope"] is None}

    with filled.warehouse.warehouse.session(LOADER) as session:
        for name in ("fireworks_default", "openai_lab"):
            disconnect(session, name)
    assert states()["fireworks_default"] == states()["openai_lab"] == "not_connected"

    assert say("sync", "fireworks_default", "--no-transform").code == 0

    assert states()["fireworks_default"] == "connected"
    assert states()["openai_lab"] == "not_connected", "only the DAG knows what Airflow lists"
    assert filled.warehouse.query(
        "select kind from ops.event where connection_id = 'fireworks_default' order by event_id desc limit 1"
    ) == [("connected",)]
    assert say("sync", "openai_lab", "--no-transform").code == 0


def test_a_connection_that_other_dags_use_is_only_taken_off_the_list(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_in_airflow("replicate_tinkerer", "replicate", monkeypatch)

    assert say("disconnect", "openai_default", "--yes", "--keep-connection").code == 2
    said = say("disconnect", "replicate_tinkerer", "--yes", "--keep-connection")

    assert said.code == 0
    is_there, listed = in_airflow("replicate_tinkerer")
    assert is_there
    assert "replicate_tinkerer" not in listed.get("replicate", [])


def test_a_purge_leaves_nothing_but_one_event_however_often_it_is_killed(
    filled: Filled, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "openrouter_personal"
    listed = json.loads(os.environ["AIRFLOW_VAR_AI_USAGE_CONNECTIONS"])
    listed["openrouter"].remove(name)
    monkeypatch.delenv(f"AIRFLOW_CONN_{name.upper()}")
    monkeypatch.setenv("AIRFLOW_VAR_AI_USAGE_CONNECTIONS", json.dumps(listed))
    # Other tests have left days to the next transform, and what it makes of them is not the purge's doing.
    assert say("sync", "openrouter_default").code == 0
    others = (
        "select md5(string_agg(t::text, '|' order by t::text)) from marts.usage_daily as t"
        " where account_id <> %s and usage_date > current_date - 30"
    )
    kept = marts(filled, others, "sandbox-person")
    (counts,) = filled.warehouse.query(
        """
        select (select count(*) from ops.slice where connection_id = %s), count(*), sum(record_count)::bigint
        from ops.load where connection_id = %s
        """,
        name,
        name,
    )
    assert min(counts) > 0
    assert say("purge", name).code == 2

    here = filled.warehouse.warehouse
    with KillingProxy(cluster.postgres.port) as proxy:
        address = f"postgresql://{here.user}:{here.password}@127.0.0.1:{proxy.port}/{here.dbname}"
        for kill_at in (14, 22):
            proxy.arm(kill_at)
            victim = subprocess.Popen(
                [sys.executable, "-P", "-m", "ai_usage", "purge", name, "--yes"],
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY / "plugins"),
                    "AIRFLOW_CONN_AI_USAGE_WAREHOUSE": address,
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            proxy.victim = victim.pid
            assert victim.wait(120) == -9, "it was not killed, so it proves nothing"
    assert filled.warehouse.query("select count(*) from ops.connection where connection_id = %s", name) == [(1,)]

    said = say("purge", name, "--yes")

    assert said.code == 0
    ((message,),) = filled.warehouse.query("select message from ops.event where connection_id = %s", name)
    assert [f"{number:,} {what}" for number, what in zip(counts, ("slices", "versions", "records"), strict=True)] == (
        message.split(": ")[1].split(", ")[:3]
    )
    assert remains_of(filled, name) == {("ops", "event")}
    assert marts(filled, "select 1 from marts.usage_daily where account_id = 'sandbox-person'") == []
    assert marts(filled, others, "sandbox-person") == kept
    assert say("purge", name, "--yes").code == 2


def remains_of(filled: Filled, connection_id: str) -> set[tuple[str, str]]:
    """Return every table that still has a row of the connection, and every raw table with a row that no version has."""
    tables = filled.warehouse.query(
        """
        select table_schema, table_name from information_schema.columns
        inner join information_schema.tables using (table_schema, table_name)
        where column_name = 'connection_id' and table_schema in ('ops', 'staging', 'intermediate', 'marts')
            and table_type = 'BASE TABLE'
        """
    )
    assert len(tables) > 10
    found = {
        (schema, table)
        for schema, table in tables
        if filled.warehouse.query(f"select 1 from {schema}.{table} where connection_id = %s limit 1", connection_id)
    }
    raw = filled.warehouse.query("select table_name from information_schema.tables where table_schema = 'raw'")
    return found | {
        ("raw", table)
        for (table,) in raw
        if filled.warehouse.query(
            f"select 1 from raw.{table} where load_id not in (select load_id from ops.load) limit 1"
        )
    }
