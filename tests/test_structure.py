"""A provider is complete: every part that belongs to one is there, under the same name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from ai_usage import connection_types, providers
from ai_usage.core.contract import Provider
from ai_usage.core.http_provider import HttpProvider

LAYERS = ["core", "warehouse", "providers", "orchestration", "commands"]
MAY_IMPORT = {
    "core": {"core"},
    "providers": {"core", "providers"},
    "warehouse": {"core", "warehouse", "providers"},
    "orchestration": {"core", "warehouse", "providers", "orchestration"},
    "commands": {"core", "warehouse", "providers", "orchestration", "commands"},
}


def parts(repository: Path, name: str) -> dict[str, Path]:
    """Return what a provider consists of."""
    return {
        "the provider module": repository / f"plugins/ai_usage/providers/{name}.py",
        "the DAG file": repository / f"dags/{name}_usage.py",
        "the dbt staging folder": repository / f"dbt_project/models/staging/{name}/stg_{name}__meters.sql",
        "the simulator": repository / f"sandbox/simulators/{name}.py",
        "the sandbox's truth": repository / f"sandbox/truth/{name}.py",
        "the tests": repository / f"tests/providers/test_{name}.py",
        "the documentation page": repository / f"docs/providers/{name}.md",
    } | (
        {"the connection type": repository / f"plugins/ai_usage/connection_types/{name}.py"}
        if isinstance(providers.load(name), HttpProvider)
        else {}
    )


@pytest.mark.parametrize("name", providers.names())
def test_a_provider_has_all_its_parts(repository: Path, name: str) -> None:
    missing = [what for what, path in parts(repository, name).items() if not path.exists()]

    assert not missing, f"{name} lacks {', '.join(missing)}"


def test_a_connection_type_is_that_of_its_provider_and_plain_data(repository: Path) -> None:
    for name in connection_types.names():
        declared = connection_types.load(name)

        assert declared["connection-type"] == providers.load(name).connection_type
        assert _imports(repository / f"plugins/ai_usage/connection_types/{name}.py") <= {
            "__future__",
            "__future__.annotations",
            "typing",
            "typing.Any",
        }
        for field, shown in declared["conn-fields"].items():
            assert {"label", "description", "schema"} == set(shown), f"{name}: {field}"
            assert "null" in shown["schema"]["type"], f"{name}: {field} cannot be left empty"


def test_dbt_knows_every_provider_and_no_other(repository: Path) -> None:
    known = yaml.safe_load((repository / "dbt_project/dbt_project.yml").read_text())["vars"]

    assert sorted(known["providers"]) == providers.names()
    beside = [
        f"{one.name}/{stream.name}" for one in providers.load_all() for stream in one.streams if not stream.is_usage
    ]
    assert known["streams_beside_usage"] == beside
    assert known["api_providers"] == [provider.name for provider in providers.load_all() if provider.category == "api"]


@pytest.mark.parametrize("provider", providers.load_all(), ids=lambda provider: provider.name)
def test_a_provider_says_what_the_contract_asks(provider: Provider) -> None:
    assert provider.label
    assert provider.reads
    assert provider.never_reads
    assert provider.if_empty.endswith(".")
    assert provider.revoke.endswith(".")
    assert all(address.startswith("https://") for address in provider.documentation.values())
    for stream in provider.streams:
        assert set(stream.grain) <= stream.fields
        assert re.fullmatch(r"[a-z_]+", stream.name)
        assert stream.max_window_days >= 1


def _imports(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(repository: Path, layer: str) -> None:
    for path in (repository / "plugins/ai_usage" / layer).rglob("*.py"):
        for name in _imports(path):
            match = re.match(r"ai_usage\.(\w+)", name)
            if match and match[1] in LAYERS:
                assert match[1] in MAY_IMPORT[layer], f"{path.name} imports {name}"
            if layer != "orchestration":
                assert not name.startswith("airflow"), f"{path.name} imports {name}: only orchestration knows Airflow"


def test_providers_do_not_know_each_other(repository: Path) -> None:
    names = set(providers.names())
    for name in names:
        others = {f"ai_usage.providers.{other}" for other in names - {name}}
        assert not _imports(repository / f"plugins/ai_usage/providers/{name}.py") & others


def test_only_staging_reads_sources(repository: Path) -> None:
    for model in (repository / "dbt_project/models").rglob("*.sql"):
        if "staging" not in model.parts:
            assert "source(" not in model.read_text(), f"{model.name} reads a source"


def _kinds_of_errors_and_stories(repository: Path) -> set[str]:
    """Return the kinds that classes of errors have, and those that calls of the event log name."""
    position = {"record_event": 2, "_append": 2, "open_problem": 3}
    found: set[str] = set()
    for path in (repository / "plugins/ai_usage").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "kind":
                found |= {str(node.value.value)} if isinstance(node.value, ast.Constant) else set()
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                place = position.get(name, len(node.args))
                kind = node.args[place] if place < len(node.args) else None
                found |= {str(kind.value)} if isinstance(kind, ast.Constant) else set()
    return found


def test_every_kind_of_event_is_explained_to_whoever_is_on_call(repository: Path) -> None:
    explained = (repository / "docs/operations.md").read_text()
    kinds = {
        str(call.args[0].value)
        for path in (repository / "plugins/ai_usage").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) in ("Note", "_note")
        if call.args and isinstance(call.args[0], ast.Constant)
    }

    assert len(kinds) > 10
    kinds |= _kinds_of_errors_and_stories(repository)
    assert {"wrong_account", "disconnected", "no_usage", "recovered"} <= kinds
    assert not [kind for kind in sorted(kinds) if f"`{kind}`" not in explained]


def test_every_setting_of_a_connection_is_in_the_list_and_on_its_page(repository: Path) -> None:
    listed = (repository / "docs/connections.md").read_text()
    for name in connection_types.names():
        page = (repository / f"docs/providers/{name}.md").read_text()
        declared = connection_types.load(name)
        (line,) = (row for row in listed.splitlines() if row.startswith(f"| `{declared['connection-type']}` "))
        for field in declared["conn-fields"]:
            assert f"`{field}`" in line, f"{name}: {field} is not in docs/connections.md"
            assert f"`{field}`" in page, f"{name}: {field} is not on its page"
