"""
### Anthropic → `raw.anthropic_usage`, `raw.anthropic_costs`

Reads tokens per workspace, API key, model, tier and geography, and billed cost per workspace and line item, per UTC day.

- **Safe to re-run:** always. A run replaces whole slices (connection × report × day); an unchanged slice writes nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included). 31 days cost one call per report.
- **Late data:** usage is provisional for three days after a day ends, cost for seven, and is read again until then.
- **Several organisations:** one connection each.
- **Requests** are counted by the analytics reports only (`reports` in the connection); the classic ones leave them NULL.

| If it fails with | Then |
|---|---|
| `credential_rejected` | Put a new Admin API key (`sk-ant-admin01-…`) into the connection; inference keys are refused. |
| `permission_missing` | Have the key made by a member with the admin role. |
| `configuration_invalid` | The message says which field of the connection to correct. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. Report the message. |

More: `docs/providers/anthropic.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("anthropic", schedule="10 * * * *", doc=__doc__)
