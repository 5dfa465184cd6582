"""
### Replicate → `raw.replicate_predictions`, `raw.replicate_trainings`

Replicate has no usage report, so the runs themselves are listed: how many there were, how long they computed and, for
official language models, their tokens; per model, version, deployment, source, status and UTC day of creation. Inputs,
outputs, logs and error texts are never stored.

- **Safe to re-run:** always. A run replaces whole slices (connection × stream × day); an unchanged slice writes nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included); one call per hundred predictions.
- **Late data:** a run counts on the day it was created, whenever it ends. The last three days are read again in every
  run; a day with a run that has not ended stays provisional and is read until it has, for up to 30 days.
- **No money:** Replicate has no report of costs.
- **Several accounts:** a token reads one user or one organization, so one connection each. One that fails leaves the
  others loaded; its days show as `failed` in the marts, never as zero.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The token was disabled or deleted: put a new one into the connection. |
| `permission_missing` | The token may not list runs: make one under the account whose usage is wanted. |
| `configuration_invalid` | The message says which field of the connection to correct, or whose token it is. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. Report the message. |

More: `docs/providers/replicate.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("replicate", schedule="25 */3 * * *", doc=__doc__)
