"""Fields that nobody knew: kept if they cannot be content, told once, never a reason to stop."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from ai_usage.core.contract import Journal
from ai_usage.core.drift import MOST_EXTRAS, Drift, is_harmless


@pytest.mark.parametrize("value", [None, True, 0, -7, Decimal("0.25"), "", "scale-2", "eu-west", "a/b:c", "x" * 64])
def test_numbers_flags_and_short_identifiers_are_kept(value: Any) -> None:
    assert is_harmless(value)


@pytest.mark.parametrize(
    "value",
    [
        "two words",
        "x" * 65,
        "someone@example.com",
        "sk-ant-api03-abc",
        "Bearer-abc",
        {"text": "x"},
        ["x"],
        "line\nbreak",
        10**30,
        Decimal("1e40"),
        Decimal("NaN"),
        Decimal("0." + "1" * 61),
        0.5,
    ],
    ids=lambda value: str(value)[:12],
)
def test_whatever_could_be_content_or_a_credential_is_not(value: Any) -> None:
    assert not is_harmless(value)


def test_each_field_is_told_once_and_in_the_same_words_every_time() -> None:
    told = []
    for rows in ([{"a": 1, "new": 2, "text": "two words"}] * 2, [{"a": 1, "text": "other words", "new": 3}]):
        drift, journal = Drift("The report"), Journal()
        assert [drift.extras(row, {"a"})["extra_fields"] for row in rows] == [{"new": row["new"]} for row in rows]
        drift.tell(journal)
        told.append(journal.notes)

    assert told[0] == told[1]
    assert [note.message.split("know: ")[1].split(".")[0] for note in told[0]] == ["new", "text"]
    assert "words" not in str(told)


def test_a_field_name_cannot_carry_content_and_no_row_grows_without_end() -> None:
    drift, journal = Drift("The report"), Journal()
    assert drift.keep({"what the user said": 1}, "row.") == {}
    assert len(drift.keep({f"f{n}": n for n in range(100)})) == MOST_EXTRAS
    drift.tell(journal)
    assert "user said" not in str(journal.notes)
    assert "row.(a name that is none)" in str(journal.notes)
