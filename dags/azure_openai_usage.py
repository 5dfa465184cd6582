"""
### Azure OpenAI → `raw.azure_openai_metrics`

Reads tokens, requests by status and images per subscription, resource, deployment, model, version, region and UTC day
from Azure Monitor.

- **Safe to re-run:** always. A run replaces whole slices (connection × resource × day); an unchanged slice writes nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included). Azure Monitor remembers 93 days.
- **Late data:** a day is provisional for three days after it ends, and is read again until then.
- **Several subscriptions and resources:** one connection per service principal; what its role shows is found by itself. A
  resource that fails leaves the others loaded; its days show as `failed` in the marts, never as zero.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The client secret is wrong or has expired: put the *Value* of a new one into the connection. |
| `permission_missing` | Give the service principal the role Monitoring Reader at the place that the message names. |
| `configuration_invalid` | The message says which field of the connection to correct, or which resource is gone. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. Report the message. |

More: `docs/providers/azure_openai.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("azure_openai", schedule="25 * * * *", doc=__doc__)
