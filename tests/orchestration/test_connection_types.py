"""The connection types as Airflow finds them: a form for each, and a Test button that says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ai_usage import connection_types, providers
from ai_usage.airflow_provider import get_provider_info
from ai_usage.core.contract import Check
from sandbox.service import Sandbox
from tests.core.http_server import Server, answer

KEY = "canary-key-6d1f0a93b2c84e57"

# As the API server does it: everything through Airflow's own registry, with nothing but PYTHONPATH to find us; and like
# it, one process answers many questions.
ANSWER_AS_AIRFLOW = """
import json, os, sys

os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.models.connection import Connection

def test(fields):
    # Airflow gives the connection under test a random id and puts it into the environment as a URI.
    connection = Connection(conn_id="rAnDom", **fields | {"extra": json.dumps(fields.get("extra", {}))})
    os.environ["AIRFLOW_CONN_RANDOM"] = connection.get_uri()
    return connection.test_connection()

# But without the pace that real providers want.
from dataclasses import replace
from ai_usage import providers
for one in providers.load_all():
    if hasattr(one, "limits"):
        type(one).limits = replace(one.limits, calls_per_minute=None)

for line in sys.stdin:
    forms = {
        form.connection_type: form.model_dump(mode="json")
        for form in HookMetaService.hook_meta_data()
        if form.hook_class_name and form.hook_class_name.startswith("ai_usage")
    }
    print("ANSWER", json.dumps({"forms": forms, "tests": [test(fields) for fields in json.loads(line)]}), flush=True)
"""

Ask = Callable[[list[dict[str, Any]]], dict[str, Any]]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(today=datetime.now(UTC).date(), moto=False) as running:
        yield running


@pytest.fixture(scope="module")
def ask_airflow(repository: Path) -> Iterator[Ask]:
    """Airflow, asked for all its forms and to test some connections."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", ANSWER_AS_AIRFLOW],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(repository / "plugins")},
    ) as process:
        assert process.stdin and process.stdout
        stdin, stdout = process.stdin, process.stdout

        def ask(connections: list[dict[str, Any]]) -> dict[str, Any]:
            stdin.write(json.dumps(connections) + "\n")
            stdin.flush()
            said = []
            while line := stdout.readline():
                said.append(line)
                if line.startswith("ANSWER "):
                    break
            for secret in {connection["password"] for connection in connections}:
                assert secret not in "".join(said), "a key has been printed"
            assert said[-1].startswith("ANSWER "), "".join(said)
            answered: dict[str, Any] = json.loads(said[-1].removeprefix("ANSWER "))
            return answered

        yield ask


def test_every_connection_type_has_its_form_in_airflow(ask_airflow: Ask) -> None:
    forms = ask_airflow([])["forms"]

    declared = {name: connection_types.load(name) for name in connection_types.names()}
    assert set(forms) == {one["connection-type"] for one in declared.values()}
    for name, one in declared.items():
        form = forms[one["connection-type"]]
        assert form["hook_name"] == one["hook-name"]
        assert form["hook_class_name"] == f"ai_usage.orchestration.hooks.{connection_types.hook_class(name)}"
        assert form["standard_fields"]["password"]["title"], f"{name} does not say which key it wants"
        assert set(form["extra_fields"]) == set(one["conn-fields"])
        for field, shown in form["extra_fields"].items():
            assert shown["schema"]["title"], f"{name}: {field} has no label"
            assert shown["description"], f"{name}: {field} is not explained"


def test_the_test_button_says_what_failed_and_what_to_do(ask_airflow: Ask) -> None:
    types = [connection_types.load(name)["connection-type"] for name in connection_types.names()]
    with Server([answer(401, b'{"error": {"message": "no such key"}}')]) as server:
        rejected = [{"conn_type": one, "password": KEY, "host": server.url} for one in types]
        answers = ask_airflow(rejected)["tests"]

    assert len(answers) == len(types) > 0
    for ok, sentence in answers:
        assert ok is False
        assert sentence.count(".") >= 2, f"no action: {sentence}"
        assert "random" not in sentence.lower()


def test_the_sandboxs_connections_pass_their_test(ask_airflow: Ask, sandbox: Sandbox) -> None:
    ours = {connection_types.load(name)["connection-type"] for name in connection_types.names()}
    connections = [
        {name: one[name] for name in ("conn_type", "host", "password", "extra") if one.get(name)}
        for one in sandbox.connections()
        if one["conn_type"] in ours
    ]

    answers = ask_airflow(connections)["tests"]

    assert {one["conn_type"] for one in connections} == ours
    assert [sentence for ok, sentence in answers if not ok] == []
    assert all(sentence for _, sentence in answers)


def test_a_stored_key_cannot_be_sent_to_another_address_by_testing_it(ask_airflow: Ask) -> None:
    """Airflow lends the stored key to a test only if the host is the stored one; it does not look into the extra."""
    conn_type = connection_types.load(connection_types.names()[0])["connection-type"]
    with Server([answer(200, b"{}")]) as server:
        lent = {"conn_type": conn_type, "password": KEY, "extra": {"base_url": server.url}}
        ((ok, sentence),) = ask_airflow([lent])["tests"]

    assert server.requests == []
    assert ok is False
    assert "base_url" in sentence


def test_describing_the_connection_types_imports_nothing_but_data(repository: Path) -> None:
    """It happens while Airflow is being imported, in every one of its processes."""
    code = (
        "import sys; before = set(sys.modules); import ai_usage.airflow_provider as p; p.get_provider_info();"
        "print(*(name for name in set(sys.modules) - before if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(repository / "plugins")},
    )

    data = {f"ai_usage.connection_types.{name}" for name in connection_types.names()}
    assert set(done.stdout.split()) == {"ai_usage", "ai_usage.airflow_provider", "ai_usage.connection_types"} | data


def test_airflow_may_write_into_the_description_it_is_given() -> None:
    first = get_provider_info()
    first["connection-types"][0]["conn-fields"].clear()

    assert get_provider_info() == get_provider_info()
    assert get_provider_info() != first


def test_a_hook_belongs_to_each_type_and_to_nothing_else() -> None:
    from ai_usage.orchestration import hooks

    for name in connection_types.names():
        hook = getattr(hooks, connection_types.hook_class(name))
        assert hook.conn_type == providers.load(name).connection_type
        assert hook.default_conn_name == f"{name}_default"
        assert hook is getattr(hooks, connection_types.hook_class(name))
    with pytest.raises(AttributeError):
        hooks.AwsBedrockHook  # noqa: B018


def test_of_failures_only_the_failures_are_told_and_of_success_everything() -> None:
    from ai_usage.orchestration.hooks import told

    good = Check("key", True, "The key belongs to Acme.")
    hint = Check("usage", True, "Warning: nothing was used.", "Check that it is the right account.")
    bad = Check("costs", False, "The key may not read costs.", "Grant api.usage.read.", "permission_missing")
    unasked = Check("projects", None, "Not asked.")

    assert told([good, hint]) == (
        True,
        "key: The key belongs to Acme. usage: Warning: nothing was used. Check that it is the right account.",
    )
    assert told([good, bad, unasked]) == (False, "costs: The key may not read costs. Grant api.usage.read.")
