"""Scenarios of group D: secrets, other hosts, hostile words, and roles; and two faults through Airflow's own task runner."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from ai_usage import providers
from ai_usage.core.errors import ConfigurationInvalid
from ai_usage.orchestration import sync
from ai_usage.warehouse.roles import LOADER, TRANSFORMER
from tests.faults.conftest import Tell
from tests.faults.ground import INVALID, REJECTED, Ground, Scenario, assert_same, fault, told
from tests.support import stack
from tests.support.airflow import migrate_metadata, run_dag

pytestmark = pytest.mark.timeout(300)

PROVIDERS = ["anthropic", "azure_openai", "fireworks", "groq", "openai", "openrouter", "replicate"]

SCENARIOS = [
    *(
        told("D1", "a refusal that repeats the key", name, REJECTED, fault("invalid_credentials"))
        for name in ("fireworks", "groq", "openrouter", "replicate")
    ),
    told(
        "D1",
        "a refusal that repeats the key, at the first run",
        "openai",
        REJECTED,
        fault("invalid_credentials"),
        is_new=True,
    ),
    told("D8", "a next page on another host", "azure_openai", INVALID, fault("foreign_link")),
    told(
        "D8",
        "a next page on another host",
        "replicate",
        INVALID,
        fault("small_pages", size=20),
        fault("cursor_elsewhere"),
    ),
    told("D8", "a redirect to another host", "groq", INVALID, fault("redirect_away")),
    told("D8", "a redirect to another host", "fireworks", INVALID, fault("redirect_away")),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_scenario(scenario: Scenario, ground: Ground, tell: Tell) -> None:
    tell(str(scenario))

    tell(str(scenario), ground.play(scenario))


ADDRESSES = [
    "http://169.254.169.254/latest",
    "https://169.254.169.254/latest",
    "http://example.com/v1",
    "file:///etc/passwd",
    "ftp://example.com",
    "gopher://localhost",
    "https://0177.0.0.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "http://localhost.example.com/",
    "http://127.0.0.1@example.com/",
    "https://user:word@example.com/",
    "https://example.com/v1?key=x",
    "https://example.com/../admin",
    "http://[::ffff:169.254.169.254]/",
    "https://example.com\\@127.0.0.1/",
]


def test_addresses_that_lead_astray(ground: Ground, tell: Tell) -> None:
    tell(f"D8 anthropic: {len(ADDRESSES)} addresses that lead astray")
    with ground.warehouse() as warehouse:
        for address in ADDRESSES:
            with pytest.MonkeyPatch.context() as astray:
                stack.move_connection(astray, "anthropic_default", address)
                stack.move_connection(astray, "anthropic_research", address)
                failures = ground.sync("anthropic", f"astray {address}")
            assert failures, address
            assert all(isinstance(failure, ConfigurationInvalid) for failure in failures), (address, failures)
            assert not any("user:word" in str(failure) for failure in failures)
        assert ground.sandbox.requests.count() == 0
        assert_same(stack.content(warehouse, "anthropic"), ground.before["anthropic"])
        ground.heal(warehouse, "anthropic")
    tell("D8", "configuration_invalid each, no request, everything untouched; exact once it is corrected")


WORDS = [
    "2026-01-01'; drop table ops.load; --",
    "{{ var.value.get('x') }}",
    "{{ conn.anthropic_default.password }}",
    "$(touch /tmp/marker)",
    "2026-02-30",
    "0001-01-01",
    "../../etc/passwd",
]


def test_words_that_are_no_days(ground: Ground, tell: Tell) -> None:
    tell("D9 anthropic: statements, templates and commands in place of a day or a connection")
    provider = providers.load("anthropic")
    with ground.warehouse() as warehouse:
        for word in WORDS:
            for request in (sync.Request(first=word), sync.Request(last=word), sync.Request(connections=[word])):
                with pytest.raises(ConfigurationInvalid):
                    sync.plan(provider, warehouse.warehouse, ["anthropic_default"], request, ground.today)
        assert ground.sandbox.requests.count() == 0
        assert_same(stack.content(warehouse, "anthropic"), ground.before["anthropic"])
    tell("D9", "refused before anything is asked or written")


def test_a_backfill_of_ten_years(ground: Ground, tell: Tell) -> None:
    tell("D24 anthropic: a backfill of ten years, and one of the future")
    provider = providers.load("anthropic")
    with ground.warehouse() as warehouse:
        for first, last in ((-3650, 0), (1, 30), (0, -30)):
            request = sync.Request(
                first=str(ground.today + timedelta(days=first)), last=str(ground.today + timedelta(days=last))
            )
            with pytest.raises(ConfigurationInvalid):
                sync.plan(provider, warehouse.warehouse, ["anthropic_default"], request, ground.today)
        assert ground.sandbox.requests.count() == 0
        assert_same(stack.content(warehouse, "anthropic"), ground.before["anthropic"])
    tell("D24", "refused before anything is asked or written")


FORBIDDEN_TO = {
    LOADER: [
        "delete from raw.openai_completions",
        "update raw.openai_completions set record = '{}'",
        "delete from ops.load",
        "delete from ops.event",
        "update ops.event set message = 'nothing happened'",
        "truncate ops.slice",
        "drop table raw.openai_completions",
        "create table public.mine (x int)",
        "create schema mine",
    ],
    TRANSFORMER: [
        "delete from raw.openai_completions",
        "insert into raw.openai_completions (load_id, usage_date, record) values (1, now(), '{}')",
        "update ops.load set record_count = 0",
        "delete from ops.slice",
        "create table public.mine (x int)",
    ],
}


def test_roles_that_overreach(ground: Ground, tell: Tell) -> None:
    tell("D15 all: what no role may do to numbers that are stored, and to the log")
    with ground.warehouse() as warehouse:
        for role, statements in FORBIDDEN_TO.items():
            here = warehouse.warehouse
            for statement in statements:
                with (
                    psycopg.connect(
                        host=here.host,
                        port=here.port,
                        dbname=here.dbname,
                        user=here.user,
                        password=here.password,
                        options=f"-c role={role}",
                    ) as session,
                    pytest.raises(psycopg.errors.InsufficientPrivilege),
                ):
                    session.execute(statement.encode())
        with warehouse.as_reader() as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("select record from raw.openai_completions")
        for name in PROVIDERS:
            assert_same(stack.content(warehouse, name), ground.before[name])
    tell("D15", "refused by PostgreSQL, everything untouched")


def test_faults_through_airflow(ground: Ground, tell: Tell) -> None:
    tell("A6 anthropic: one key of two is refused, through Airflow's own task runner")
    migrate_metadata()
    account = next(
        slot.connection_id for slot in ground.after["anthropic"] if slot.connection_id != "anthropic_default"
    )
    with ground.warehouse() as warehouse:
        with pytest.MonkeyPatch.context() as wrong:
            stack.change_connection(wrong, account, password="sk-ant-admin01-revoked-long-ago-and-never-made-again")
            failed = run_dag("anthropic_usage")
        assert failed.state == "failed"
        assert sorted(failed.states()["extract_load"]) == ["failed", "success"]
        tries = warehouse.query(
            "select count(distinct run_id) from ops.extraction where connection_id = %s and outcome = 'failed'", account
        )
        assert tries == [(1,)]
        now = stack.content(warehouse, "anthropic")
        for slot, here in now.items():
            assert here == (ground.before if slot.connection_id == account else ground.after)["anthropic"][slot]
        assert REJECTED in {problem.kind for problem in stack.open_problems(warehouse)}
        assert run_dag("anthropic_usage").state == "success"
        ground.heal(warehouse, "anthropic")
        ground.assert_no_secret(warehouse)
    tell("A6", "the run is red, the other exact, its own untouched; green and exact with the right key")
