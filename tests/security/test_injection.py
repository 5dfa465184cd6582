"""What providers call things reaches people and databases as text, whatever it holds."""

from __future__ import annotations

import json
import logging

import pytest

from ai_usage.core.contract import Check, Journal, Note, Record, Scope
from ai_usage.core.errors import CredentialRejected, SourceUnavailable, UsageError
from ai_usage.core.slices import Window
from ai_usage.core.texts import plain, without_keys
from ai_usage.orchestration.sync import SourcesFailed
from ai_usage.warehouse import ledger
from ai_usage.warehouse.place import Place
from ai_usage.warehouse.roles import LOADER
from tests.support.loading import day, load, prepare
from tests.support.warehouse import TestWarehouse

NAMES = (
    "'; drop table ops.load; --",
    '"; drop schema marts cascade; --',
    "$$; select pg_sleep(9); $$",
    "\\'; copy ops.event to program 'id'; --",
    "%s %(connection_id)s {0} {connection_id}",
    "{{ conn.openai_default.password }}",
    "{% raw %}{% endraw %}{{ env_var('DBT_ENV_SECRET_AI_USAGE_DB_PASSWORD') }}",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    "ok\r\n2026-01-01 ERROR forged line",
    "ok\u2028forged\u2029line\x1b[2J\x1b[31mred\x07",
    "\u202egnp.exe",
    "a\tb|c\\d/e",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_stored_as_it_is_wherever_it_stands(warehouse: TestWarehouse, name: str) -> None:
    place = Place("sample", f"sample_{name}", "metrics", name)
    prepare(warehouse, place)
    load(warehouse, 0, 0, [Record(day(0), {"model": name, "quantity": 1, "note": name})], run_id=name, place=place)
    with warehouse.warehouse.session(LOADER) as session:
        attempt = ledger.begin_attempt(session, place, Window(day(1), day(1)), name)
        ledger.fail_attempt(session, attempt, SourceUnavailable(f"{name} is down.", action=name), Journal())
        ledger.register_scope(session, place.connection_id, Scope(name, "account-1", name, name))

    assert warehouse.query("select record ->> 'model', record ->> 'note' from raw.sample_metrics") == [(name, name)]
    assert warehouse.query("select connection_id, scope, run_id from ops.load") == [(f"sample_{name}", name, name)]
    assert warehouse.query("select account_name, region from ops.scope") == [(name, name)]
    ((message,),) = warehouse.query("select message from ops.event where kind = 'source_unavailable'")
    assert message == f"{plain(name)} is down."
    assert warehouse.query("select to_regclass('ops.load') is not null") == [(True,)]


@pytest.mark.parametrize("name", NAMES)
def test_what_people_read_is_one_line_without_control_characters(name: str, caplog: pytest.LogCaptureFixture) -> None:
    error = CredentialRejected(f"The account {name} refuses.", action=f"Ask {name}.", connection_id="a", scope="b")
    check = Check(name, False, name, name)
    note = Note("restated", f"{name} was restated.")
    place = Place("sample", "sample_default", "metrics", name)
    logging.getLogger("somewhere").warning("%s", error)

    for text in (str(error), check.name, check.message, check.action or "", note.message, place.label):
        assert text == "".join(one for one in text if one.isprintable()), repr(text)
    assert len(caplog.messages[0].splitlines()) == 1


def test_only_a_list_of_problems_has_lines_and_its_items_have_none() -> None:
    problems = [str(SourceUnavailable(f"{name} is down.", action="Wait.")) for name in NAMES]
    told = SourcesFailed("2 of 3 sources failed.\n" + "\n".join(f"- {one}" for one in problems), action="Look.")

    assert len(str(told).splitlines()) == 1 + len(NAMES)


KEYS = (
    "sk-proj-AbCdEf0123456789GhIjKl",
    "sk-ant-api03-AbCdEf0123456789_-AA",
    "gsk_AbCdEf0123456789GhIjKlMn",
    "r8_AbCdEf0123456789GhIjKlMnOp",
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "Bearer abcdefgh12345678",
    "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY12",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
)
NO_KEYS = (
    "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/Prod1/providers/Microsoft.CognitiveServices",
    "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5-20250929-v1:0",
    "acme-billing.export.gcp_billing_export_resource_v1_012345_6789AB_CDEF01",
    "d2f4e1b3c5a7d2f4e1b3c5a7d2f4e1b3c5a7",
    "Keys of the right kind begin with sk-ant-admin01-.",
    "accounts/fireworks/models/llama-v3p1-405b-instruct",
)


@pytest.mark.parametrize("key", KEYS)
def test_what_looks_like_a_key_is_hidden_in_every_error(key: str) -> None:
    error = UsageError(f"The setting is {key}", action=f"Correct {key}")

    assert key not in json.dumps([str(error), error.args, vars(error)])
    assert "***" in error.happened


@pytest.mark.parametrize("text", NO_KEYS)
def test_what_does_not_look_like_a_key_is_left_alone(text: str) -> None:
    assert without_keys(text) == text
