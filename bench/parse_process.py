"""
One DAG file, parsed as Airflow's DAG processor parses it: ``python -m bench.parse_process <DAG file>``.

The DAG processor has imported Airflow when it forks a process for a file; that process imports what the file needs,
collects its DAGs and serializes them. Here both are timed, one after the other. Prints what they took.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path

from bench.processes import peak_mb


def main(path: Path) -> dict[str, float]:
    """Return seconds and peak memory; raise if the file does not bring exactly one DAG."""
    begun = time.perf_counter()
    # What the DAG processor's process holds before it looks at a file. Importing it is what is timed.
    import_module("airflow.dag_processing.processor")
    from airflow.dag_processing.dagbag import BundleDagBag  # noqa: PLC0415
    from airflow.serialization.serialized_objects import DagSerialization  # noqa: PLC0415

    imported = time.perf_counter()
    memory_of_airflow = peak_mb()
    bag = BundleDagBag(dag_folder=str(path), bundle_path=path.parent, bundle_name="bench", load_op_links=False)
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    parsed = time.perf_counter()
    if bag.import_errors or len(bag.dags) != 1:
        raise SystemExit(f"{path.name} gave {len(bag.dags)} DAGs: {bag.import_errors}")
    return {
        "airflow_seconds": imported - begun,
        "file_seconds": parsed - imported,
        "airflow_mb": memory_of_airflow,
        "peak_mb": peak_mb(),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
