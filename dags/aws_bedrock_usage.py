"""
### AWS Bedrock → `raw.aws_bedrock_metrics`

Reads token, request and error counts from CloudWatch, per account, region, model and UTC day.

- **Safe to re-run:** always. A run replaces whole slices (connection × region × day); an unchanged slice writes nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included). CloudWatch remembers 455 days.
- **Late data:** a day is provisional for three days after it ends, and is read again until then.
- **Several accounts and regions:** one connection per account, its regions listed on it. A region that fails leaves the
  others loaded; its days show as `failed` in the marts, never as zero.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The access key was deleted, disabled or has expired: put a new one into the connection. |
| `permission_missing` | Grant the named CloudWatch action to the user or role behind the connection. |
| `configuration_invalid` | The message says which field of the connection to correct. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. Report the message. |

More: `docs/providers/aws_bedrock.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("aws_bedrock", schedule="5 * * * *", doc=__doc__)
