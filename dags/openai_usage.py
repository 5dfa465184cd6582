"""
### OpenAI → `raw.openai_<endpoint>` (ten usage endpoints) and `raw.openai_costs`

Reads requests, tokens, images, seconds, characters, searches and sessions per project, model and UTC day, and what was
billed per project and line item.

- **Safe to re-run:** always. A run replaces whole slices (connection × endpoint × day); an unchanged slice writes nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included); one call per endpoint and 31 days, 180 for costs.
- **Late data:** a day is provisional for three days after it ends; the last seven days are read again in every run.
- **Costs** come up to a day after usage, and only they agree with the invoice.
- **Several organizations:** one connection each. One that fails leaves the others loaded; its days show as `failed` in
  the marts, never as zero.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The admin key was revoked or has expired: put a new one into the connection. |
| `permission_missing` | The key calls models, or lacks `api.usage.read`: put in an admin key that has it. |
| `configuration_invalid` | The message says which field of the connection to correct. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. If it is about old days, set `start_date`; otherwise report the message. |

More: `docs/providers/openai.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("openai", schedule="15 * * * *", doc=__doc__)
