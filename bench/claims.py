"""What a benchmark claims, and the table in which all of them are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """One figure beside its goal. ``met`` is None where there is no goal and the figure is for comparison."""

    name: str
    measured: str
    goal: str
    met: bool | None


VERDICTS = {True: "met", False: "NOT met", None: "-"}


def claims_table(claims: Sequence[Claim]) -> str:
    """Return the final table: name, figure, goal, and whether it was met."""
    header = ("claim", "measured", "goal", "")
    return table(header, [(one.name, one.measured, one.goal, VERDICTS[one.met]) for one in claims])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return aligned lines, indented by two; columns whose position is in ``right`` are aligned to the right."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    return "\n".join(_line(cells, widths, right) for cells in ruled)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    placed = (
        cell.rjust(width) if position in right else cell.ljust(width)
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return ("  " + "  ".join(placed)).rstrip()
