"""
### Raw usage → `marts`

Runs whenever a provider DAG has published changed slices, and rebuilds exactly the connection-days that changed. Several
events that arrive during a run are answered by one next run.

- **Safe to re-run:** always. With nothing changed it builds nothing.
- **If it fails:** readers keep the last good build. The message names the dbt node; a retry goes on where dbt stopped, and
  the days that were not built stay on the list until a run succeeds.
- **Rebuild everything:** trigger with `full_refresh`. The marts come out identical; only the code that builds them, or a
  hand that changed them, can make a difference.
- **History of runs:** `ops.dbt_run`, `ops.dbt_node_result`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.marts_dag import marts_dag

dag: DAG = marts_dag(doc=__doc__)
