"""The table in which the benchmarks print what they claim."""

from __future__ import annotations

from bench.claims import Claim, claims_table, table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("name", "calls"), [("a", "1"), ("longer", "12,345")], right=[1]).splitlines() == [
        "  name     calls",
        "  ------  ------",
        "  a            1",
        "  longer  12,345",
    ]


def test_each_claim_says_whether_its_goal_was_met() -> None:
    printed = claims_table(
        [
            Claim("fast", "0.9 x", ">= 0.8 x", met=True),
            Claim("small", "200 MB", "< 150 MB", met=False),
            Claim("for comparison", "3 s", "", met=None),
        ]
    )

    assert [line.split()[-1] for line in printed.splitlines()[2:]] == ["met", "met", "-"]
    assert [line for line in printed.splitlines() if "NOT met" in line] == [printed.splitlines()[3]]
