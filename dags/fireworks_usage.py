"""
### Fireworks AI → `raw.fireworks_usage`, `raw.fireworks_costs`, `raw.fireworks_throughput`

Reads tokens of shared models, accelerator seconds of dedicated deployments and training, and what both cost, per account,
model and UTC day; and, every ten minutes, how many prompt tokens per second the dedicated deployments take.

- **Safe to re-run:** always. A run replaces whole slices (connection × stream × account × day); an unchanged slice writes
  nothing, and readings of today that are stored already stay.
- **Backfill:** trigger with `from` and `to` (UTC days, both included); three calls per account and 31 days. Gauges have no
  past: of earlier days there is what was read on them.
- **Late data:** a day is provisional for five days after it ends, and is read again until then.
- **Long tasks are healthy:** while a deployment is up, a task goes on reading its gauges, once a minute, for up to nine
  minutes (`readings_per_run`). What no reading saw is unknown, and `sampled_seconds` says how much was seen.
- **Several accounts:** each is a task of its own. One that fails leaves the others loaded; its days show as `failed` in
  the marts, never as zero.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The key was revoked or has expired: put a new one into the connection. |
| `permission_missing` | About costs: the key must be of an administrator of the account. Otherwise it only calls models. |
| `configuration_invalid` | The message says which field to correct; mostly an account that the key does not reach. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. If it is about old days, set `start_date`; otherwise report the message. |

More: `docs/providers/fireworks.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("fireworks", schedule="*/10 * * * *", doc=__doc__)
