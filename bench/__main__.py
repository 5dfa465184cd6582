"""``python -m bench [load] [transform] …``: run the named benchmarks, or all, and print what they claim in one table."""

from __future__ import annotations

import importlib
import sys

from bench.claims import Claim, claims_table

BENCHMARKS = ("load", "calls", "parse", "transform", "cycle")
"""What runs when none is named."""

BY_NAME = ("scale",)
"""What runs only when it is named: it needs Docker."""


def main(names: list[str]) -> int:
    """Run the benchmarks; 1 if a goal was not met."""
    unknown = [name for name in names if name not in (*BENCHMARKS, *BY_NAME)]
    if unknown:
        print(
            f"There is no benchmark {unknown[0]!r}; choose among: {', '.join((*BENCHMARKS, *BY_NAME))}.",
            file=sys.stderr,
        )
        return 2
    claims: list[Claim] = []
    for name in names or BENCHMARKS:
        claims += importlib.import_module(f"bench.{name}").run()
        print(flush=True)
    print(claims_table(claims))
    return 1 if any(claim.met is False for claim in claims) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
