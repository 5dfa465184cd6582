"""``python -m bench [load] [transform]``: run the named benchmarks, or all."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = ("load", "transform")


def main(names: list[str]) -> int:
    """Run the benchmarks."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; choose among: {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        importlib.import_module(f"bench.{name}").run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
