"""
### Once a day: clean, check, tell

`clean` deletes what has had its time. `check` tests all of history, where a transform tests the days that it changed, and
tells which sources have not answered lately. `tell` looks for late data and sends the daily digest, where somebody wants it.

- **Never deleted:** the current version of a day; the last version with records of a day that is empty now; a version
  whose numbers no build has kept yet; an open problem; the row in `ops.load` of any version.
- **Deleted:** raw records of versions that were replaced more than 30 days ago (`AI_USAGE_KEEP_SUPERSEDED_DAYS`), attempts
  and dbt results after 90 days, events and ended problems after 400.
- **Safe to re-run:** always, and safe to kill: it works in small steps, and the next run goes on.
- **If `clean` fails:** nothing is lost and nothing is wrong; the warehouse is larger than it need be until it succeeds.
- **If `check` fails:** a number of the past is wrong, and the message names the test. Rebuild all of history (trigger
  `usage_marts` with `full_refresh`), then clear the task. If it fails again, report it.
- **Size of each table, day by day:** `ops.table_figures`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.housekeeping_dag import housekeeping_dag

dag: DAG = housekeeping_dag(schedule="40 3 * * *", doc=__doc__)
