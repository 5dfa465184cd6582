"""
### Google Vertex AI → `raw.google_vertex_ai_costs`

Reads the Cloud Billing export in BigQuery: tokens, cost, credits and currency per billing account, project, SKU, place and
UTC day, of Vertex AI, the Gemini API and publishers' models (Claude and others).

- **Safe to re-run:** always. A run replaces whole slices (connection × billing account × day); an unchanged slice writes
  nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included); one query per 92 days.
- **Late data:** rows are added for weeks. A day is provisional for three days after it ends; the last 40 days are added up
  again in every run.
- **What it costs:** each query is estimated by a dry run and capped; both figures are in the task's log.
- **Several billing accounts:** one connection each, or one dataset with several exports. One that fails leaves the others
  loaded; its days show as `failed` in the marts, never as zero.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The service account or its key was deleted or disabled: put a new key into the connection. |
| `permission_missing` | Grant the named role: Data Viewer on the dataset, or Job User on the job project. |
| `configuration_invalid` | The message says what to correct: dataset, location, `max_gigabytes`, the project's billing. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. Report the message. |

More: `docs/providers/google_vertex_ai.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("google_vertex_ai", schedule="50 */4 * * *", doc=__doc__)
