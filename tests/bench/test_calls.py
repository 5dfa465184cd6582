"""What is said about the calls that were counted."""

from __future__ import annotations

from dataclasses import replace

from bench.calls import Row, claim

AT_THE_MINIMUM = Row("groq", "usage", made=3, minimum=3, more=0, words="", by_default=3, naive=90)


def test_a_provider_is_at_its_minimum_if_every_stream_is() -> None:
    costs = replace(AT_THE_MINIMUM, stream="costs", made=2, minimum=1)

    assert claim("groq", [AT_THE_MINIMUM]).met is True
    assert claim("groq", [AT_THE_MINIMUM, costs]).met is False


def test_a_call_saved_in_one_stream_does_not_excuse_one_too_many_in_another() -> None:
    spared = replace(AT_THE_MINIMUM, made=2)
    wasted = replace(AT_THE_MINIMUM, made=4)

    assert claim("groq", [spared, wasted]).met is False


def test_calls_made_on_purpose_are_allowed_and_told() -> None:
    dry_run = replace(AT_THE_MINIMUM, made=2, minimum=1, more=1)

    told = claim("groq", [dry_run])

    assert (told.measured, told.goal, told.met) == ("2", "minimum 1, and 1 on purpose", True)
