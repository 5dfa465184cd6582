"""
### Authress → `raw.authress_operations`

Counts API calls per resource, operation, result and UTC day in Authress's audit stream, where it lands: a bucket of S3 or
of Google Cloud Storage, or a folder. Not AI: it stays out of AI totals.

- **Safe to re-run:** always. A run replaces whole slices (connection × day); an unchanged slice writes nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included); one list and every object of those days and of the
  seven after them. Days before the first object show as `outside_retention`, never as zero.
- **Late data:** events that land up to seven days after their day are counted; the last eight days are read again in
  every run.
- **Several accounts:** one connection and one folder each. One that fails leaves the others loaded; its days show as
  `failed` in the marts, never as zero.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The message names the connection: the bucket's, or the access key of this one. Put in a new one. |
| `permission_missing` | Grant the bucket's connection the permission that the message names. |
| `configuration_invalid` | The message says which field of which connection to correct. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | An object is no audit stream, or damaged: the message names it. Nothing of those days was stored. |
| not failed, but `not_entitled` | Nothing has ever landed there: route the stream to it, or correct the location. |

More: `docs/providers/authress.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("authress", schedule="45 */6 * * *", doc=__doc__)
