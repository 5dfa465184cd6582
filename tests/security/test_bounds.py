"""Answers that are too deep, too large or no numbers: refused or stored exactly, never anything else."""

from __future__ import annotations

import json
import resource
from decimal import Decimal
from typing import Any

import pytest

from ai_usage.core.errors import ResponseInvalid, SourceUnavailable, UsageError
from ai_usage.core.http import HttpClient, Limits
from ai_usage.core.http.body import BodyCutError, BodyUnusableError, parse
from ai_usage.warehouse.encoding import encode_record
from tests.core.http_server import Server, answer

DEEP = 100_000
HOSTILE: dict[str, bytes] = {
    "lists, nested deeply": b"[" * DEEP + b"]" * DEEP,
    "objects, nested deeply": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "nested a little too deeply": b"[" * 65 + b"]" * 65,
    "an integer of 5,000 digits": b'{"data": ' + b"9" * 5000 + b"}",
    "a negative one": b'{"data": -' + b"9" * 5000 + b"}",
    "NaN": b'{"data": NaN}',
    "infinity": b'{"data": -Infinity}',
    "an exponent that no decimal has": b'{"data": 1e99999999999999999999}',
    "never closed": b'{"data": [' + b"[" * DEEP,
    "an array without end": b'{"data": [' + b"0," * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused_and_nothing_else_happens(name: str) -> None:
    with pytest.raises((BodyUnusableError, BodyCutError)):
        parse(HOSTILE[name], max_depth=64)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_client_names_what_is_wrong_with_it(name: str) -> None:
    limits = Limits(attempts=1, answer_timeout=10, patience=10)
    with (
        Server([answer(200, HOSTILE[name])]) as server,
        HttpClient(server.url, connection_id="bounds", limits=limits) as client,
        pytest.raises((ResponseInvalid, SourceUnavailable)) as caught,
    ):
        client.get_json("usage")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", HOSTILE)
def test_nor_does_it_get_through_in_an_error_answer(name: str) -> None:
    limits = Limits(attempts=1, answer_timeout=10, patience=10)
    with (
        Server([answer(403, HOSTILE[name])]) as server,
        HttpClient(server.url, connection_id="bounds", limits=limits, explain=lambda _: None) as client,
        pytest.raises(UsageError) as caught,
    ):
        client.get_json("usage")
    assert caught.value.kind == "permission_missing"


EXACT: dict[str, tuple[bytes, Any]] = {
    "an integer of 4,000 digits": (b"9" * 4000, int("9" * 4000)),
    "a small decimal": (b"0.0000000000000000000000000001", Decimal("1E-28")),
    "a long decimal": (b"0." + b"123456789" * 20, Decimal("0." + "123456789" * 20)),
    "more than a double holds": (b"1e400", Decimal("1e400")),
    "minus nothing": (b"-0.0", Decimal("-0.0")),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_number_that_is_one_keeps_every_digit(name: str) -> None:
    body, value = EXACT[name]
    document = parse(b'{"n": ' + body + b"}", max_depth=64)
    assert document == {"n": value}
    stored = json.loads(encode_record(document), parse_float=Decimal)
    assert stored == {"n": value}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("\\u0000", "\ufffd"),
        ("\\ud800", "\ufffd"),
        ("\\udc00x", "\ufffdx"),
        ("\\ud83d\\ude00", "\U0001f600"),
        ("\\u202e", "\u202e"),
    ],
)
def test_text_that_postgresql_cannot_hold_is_mended(text: str, kept: str) -> None:
    document = parse(f'{{"name": "{text}"}}'.encode(), max_depth=64)
    assert json.loads(encode_record(document)) == {"name": kept}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"), Decimal("sNaN")])
def test_what_is_no_number_is_refused_wherever_it_stands(value: object) -> None:
    for record in ({"a": value}, {"a": [value]}, {"a": {"b": [{"c": value}]}}):
        with pytest.raises(ResponseInvalid):
            encode_record(record)


def test_memory_stays_bounded_by_the_size_of_an_answer() -> None:
    """An answer of the allowed size, all of it small objects: the worst that JSON can do to memory."""
    limits = Limits(attempts=1, answer_timeout=60, patience=60, max_body_bytes=4 * 1024 * 1024)
    body = b'{"data": [' + b"[]," * (4 * 1024 * 1024) + b"[]]}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        Server([answer(200, body)]) as server,
        HttpClient(server.url, connection_id="bounds", limits=limits) as client,
        pytest.raises(ResponseInvalid, match="larger than 4 MiB"),
    ):
        client.get_json("usage")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
