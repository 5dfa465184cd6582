"""
No stored record has a field that could hold content: what may be stored is on a reviewed list, and what is stored is
looked at.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ai_usage import providers
from ai_usage.core.contract import Provider
from ai_usage.core.drift import is_harmless
from ai_usage.core.errors import UsageError
from ai_usage.orchestration import sync
from ai_usage.orchestration.sources import discover
from sandbox.connections import environment
from sandbox.service import Sandbox
from tests.security.stored_fields import NAMES, NUMBERS
from tests.support.warehouse import Cluster, TestWarehouse

IDENTIFIERS = """
    account_id acceleratorType adjustment_type apiKeyId api_key_id baseModel base_model billing_account_id category
    completed_at context_level context_window cost_type created_at currency deployed deployment deploymentId deployment_id
    dimensions endpoint_id event exported_at first_read_at group groupingKey groupingValue id inference_geo invoice_month
    jobId jobType last_read_at line_item list location model modelName model_id model_permaslug namespace operation
    organization_id placement pricing_unit project_id project_name provider_name quantity_unit region report resource
    resource_group resource_id resource_name result secondaryGroupingKey secondaryGroupingValue series service_account_id
    service_description service_id service_tier size sku_description sku_id source speed started_at status subscription_id
    token_type trainingSessionId transaction_type usageType usage_unit user_id vector_store_id version workspace
    workspace_id workspace_name description extra_fields
"""
QUANTITIES = """
    acceleratorSeconds amount audioInputSeconds batch by_key byok_request_count byok_requests byok_usage
    byok_usage_inference cache_creation cache_read_input_tokens cachedPromptTokens cached_prompt_tokens cached_tokens
    characters completionTokens completion_tokens cost costNanoUsd cost_at_list count credits credits_by_type credits_usage
    gaps highest_prompt_rate images input_audio_tokens input_cache_write_tokens input_cached_audio_tokens
    input_cached_image_tokens input_cached_text_tokens input_cached_tokens input_image_tokens input_text_tokens input_tokens
    input_uncached_tokens list_amount longest_gap_seconds metrics num_model_requests num_requests num_sessions
    output_audio_tokens output_image_tokens output_text_tokens output_tokens promptTokens prompt_tokens quantity readings
    reasoning_tokens request_count requests row_count sampled_seconds seconds server_tool_use subtotal tokens
    tokens_completion tokens_in tokens_out tokens_prompt totalCost total_credits total_tokens total_usage
    uncachedPromptTokens uncached_input_tokens usage usage_amount usage_amount_in_pricing_units usage_bytes
"""
REVIEWED = {*IDENTIFIERS.split(), *QUANTITIES.split()}
"""Every field of every stream, looked at by a person: a name, an id, a moment, or a number."""
CONTENT = re.compile(
    r"(?:^|_)(?:prompts?|completions?|messages?|contents?|texts?|inputs?|outputs?|e?mails?|query|queries|instructions?|"
    r"logs?|error|urls?|user_?names?|first_?name|last_?name|phone|address|card|iban|ip)$",
    re.IGNORECASE,
)
"""Names of fields in which people write, or in which people are named."""
LONGEST_TEXT, MOST_WORDS = 300, 30
"""Of a name. Azure's ids of resources are the longest, Google's descriptions of SKUs have the most words."""
EXTRA_NAME = re.compile(r"extra_fields(\.[A-Za-z_][A-Za-z0-9_]{0,63}){1,3}")
"""What nobody knows yet: kept by ``ai_usage.core.drift`` if it is a number, a flag or a short identifier."""
EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[a-z]{2,}", re.IGNORECASE)

MODULE_HISTORY = 3


@pytest.mark.parametrize("provider", providers.load_all(), ids=lambda provider: provider.name)
def test_every_field_that_may_be_stored_has_been_reviewed(provider: Provider) -> None:
    for stream in provider.streams:
        assert not stream.fields - REVIEWED, f"{provider.name} {stream.name}: look at these, then put them on the list"
        assert not [field for field in stream.fields - set(QUANTITIES.split()) if CONTENT.search(field)]


def test_the_list_holds_nothing_that_no_stream_has_and_no_name_of_content() -> None:
    used = {field for provider in providers.load_all() for stream in provider.streams for field in stream.fields}
    assert REVIEWED - used == set()
    assert [name for name in sorted(IDENTIFIERS.split()) if CONTENT.search(name)] == []
    assert all(CONTENT.search(name) for name in ("prompt", "completion_text", "messages", "output", "user_email"))


def test_the_list_of_nested_fields_names_streams_and_fields_that_exist_and_no_content() -> None:
    fields = {
        f"{provider.name}_{stream.name}": stream.fields
        for provider in providers.load_all()
        for stream in provider.streams
    }
    for table, paths in [*NUMBERS.items(), *NAMES.items()]:
        assert {re.split(r"[.\[]", path)[0] for path in paths.split()} <= fields[table], table
    assert [path for paths in NAMES.values() for path in paths.split() if CONTENT.search(path.rpartition(".")[2])] == []


def test_a_field_that_is_on_no_list_and_a_text_that_is_none_are_unknown() -> None:
    good = {"account_id": "1", "metrics": {"Invocations": 1}, "extra_fields": {"a.b": "eu-west", "c": 5}}
    assert unknown("aws_bedrock_metrics", good) == []
    assert unknown("aws_bedrock_metrics", {"metrics": {"Invocations": "many"}}) == ["metrics.Invocations = 'many'"]
    assert unknown("aws_bedrock_metrics", {"metrics": {"Prompt": 1}}) == ["metrics.Prompt = 1"]
    assert unknown("groq_usage", {"metrics": {"Invocations": 1}}) == ["metrics.Invocations = 1"]
    assert unknown("azure_openai_metrics", {"series": [{"metric": {"note": "x"}}]}) == ["series[].metric.note = 'x'"]
    assert unknown("openai_costs", {"extra_fields": {"a": "two words"}}) == ["extra_fields.a = 'two words'"]
    assert unknown("openai_costs", {"extra_fields": {"two words": 1}}) == ["extra_fields.two words = 1"]
    assert unknown("openai_costs", {"quantity": "a lot", "line_item": "a name"}) == ["quantity = 'a lot'"]
    assert unknown("openai_costs", {"note": "x"}) == ["note = 'x'"]


def unknown(table: str, record: dict[str, Any]) -> list[str]:
    """Return the leaves of a record that are on no reviewed list, or are no numbers where numbers belong."""
    numbers = {*QUANTITIES.split(), *NUMBERS.get(table, "").split()}
    names = {*IDENTIFIERS.split(), *NAMES.get(table, "").split()}
    return [
        f"{path} = {value!r}"
        for path, value in leaves(record)
        if not (
            (path in numbers and is_number(value))
            or (path in names and isinstance(value, str | None))
            or (EXTRA_NAME.fullmatch(path) and (is_harmless(value) or isinstance(value, float)))
        )
    ]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of everything in a record that holds nothing else."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, f"{path}[]")
    else:
        yield path, value


def is_number(value: Any) -> bool:
    """Return whether a value is a number, a flag or nothing; some providers write their numbers as texts."""
    return not isinstance(value, str) or re.fullmatch(r"-?\d+(\.\d+)?", value) is not None


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of everything inside a record, its objects' names included."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield f"{path}.{name}", part
            yield from walk(part, f"{path}.{name}")
    elif isinstance(value, list):
        for part in value:
            yield from walk(part, f"{path}[]")
    else:
        yield path, value


def suspicious(record: dict[str, Any]) -> list[str]:
    """Return what in a record could be content: by the name of a field, at any depth, or by the look of a text."""
    return [
        f"{path} = {str(value)[:80]!r}"
        for path, value in walk(record)
        if (CONTENT.search(path.rpartition(".")[2]) and not isinstance(value, int | float | Decimal))
        or (isinstance(value, str) and (len(value) > LONGEST_TEXT or len(value.split()) > MOST_WORDS))
        or (isinstance(value, str) and EMAIL.search(value))
        or "diary" in f"{path} {value}".lower()
    ]


def write_diary(folder: Path) -> None:
    """Write content and names of people into every object of every event that has landed in a folder."""
    for path in folder.rglob("*.ndjson"):
        lines = path.read_text().splitlines(keepends=True)
        # The last line may be the beginning of an event only.
        whole = [json.dumps(with_content(json.loads(line))) + "\n" if line.endswith("\n") else line for line in lines]
        path.write_text("".join(whole))


def with_content(value: Any) -> Any:
    """Return a value with content in every object of it."""
    if isinstance(value, list):
        return [with_content(part) for part in value]
    if not isinstance(value, dict):
        return value
    content = {"note": "Dear diary", "email": "somebody@example.com", "details": {"prompt": "Dear diary"}}
    return {name: with_content(part) for name, part in value.items()} | content


@pytest.fixture(scope="module")
def loaded(cluster: Cluster) -> Iterator[TestWarehouse]:
    """All ten providers from a sandbox that plants content wherever it can."""
    before = dict(os.environ)
    with (
        cluster.warehouse() as warehouse,
        Sandbox(today=datetime.now(UTC).date(), history_days=MODULE_HISTORY, moto=False) as sandbox,
    ):
        os.environ.update(environment(sandbox.connections()))
        for name, simulator in sandbox.simulators.items():
            for fault in {"unknown_fields", "unknown_columns"} & simulator.fault_kinds.keys():
                sandbox.faults.add(fault, provider=name)
        write_diary(sandbox.simulators["authress"].folder)  # type: ignore[attr-defined]
        first = (datetime.now(UTC).date() - timedelta(days=MODULE_HISTORY - 1)).isoformat()
        for provider in providers.load_all():
            for piece in sync.plan(provider, warehouse.warehouse, discover(provider), sync.Request(first=first)):
                try:
                    sync.extract_and_load(provider, warehouse.warehouse, piece, "privacy")
                except UsageError:
                    continue  # whoever refuses such answers stores nothing of them
        hit = {fault["provider"] for fault in sandbox.faults.to_json() if fault["hits"]}
        assert hit | {"authress"} == set(providers.names()), "a provider was never sent any content"
        yield warehouse
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.mark.usefixtures("without_pace")
def test_what_is_stored_of_ten_providers_that_send_content_holds_none(loaded: TestWarehouse) -> None:
    tables = [f"{provider.name}_{stream.name}" for provider in providers.load_all() for stream in provider.streams]
    seen = {table: loaded.query(f"select record from raw.{table}") for table in tables}
    read = {
        provider.name
        for provider in providers.load_all()
        for table in tables
        if table.startswith(provider.name) and seen[table]
    }

    assert read == set(providers.names())
    found = {table: {one for (record,) in rows for one in suspicious(record)} for table, rows in seen.items()}
    assert {table: sorted(ones)[:3] for table, ones in found.items() if ones} == {}
    strangers = {table: {one for (record,) in rows for one in unknown(table, record)} for table, rows in seen.items()}
    assert {table: sorted(ones)[:3] for table, ones in strangers.items() if ones} == {}
    nested = {
        table for table, rows in seen.items() for (record,) in rows if any("." in path for path, _ in leaves(record))
    }
    assert nested >= {*NUMBERS, *NAMES}


@pytest.fixture(scope="module", autouse=True)
def without_pace() -> Iterator[None]:
    """The providers' own paces are for the real ones."""
    from dataclasses import replace

    with pytest.MonkeyPatch.context() as patch:
        for provider in providers.load_all():
            if hasattr(provider, "limits"):
                patch.setattr(type(provider), "limits", replace(provider.limits, calls_per_minute=None))
        yield


@pytest.mark.parametrize(
    "record",
    [
        {"metrics": {"prompt": "Dear diary"}},
        {"a": [{"b": {"messages": ["hello"]}}]},
        {"extra_fields": {"note": "x" * 301}},
        {"extra_fields": {"note": " ".join(["word"] * 31)}},
        {"dimensions": {"user": "somebody@example.com"}},
    ],
)
def test_the_look_finds_content_at_any_depth(record: dict[str, Any]) -> None:
    assert suspicious(record)
    assert suspicious({"metrics": {"prompt_tokens": 7, "output": 3}, "model": "openai/gpt-5"}) == []
