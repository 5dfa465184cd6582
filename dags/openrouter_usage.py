"""
### OpenRouter → `raw.openrouter_activity`, `raw.openrouter_history`

Reads requests, tokens and charged dollars per model, endpoint, upstream provider, workspace and UTC day; per API key
where the connection asks for it.

- **Safe to re-run:** always. A run replaces whole slices (connection × report × day); an unchanged slice writes nothing.
- **Runs** at 00:45 UTC and every six hours: OpenRouter gives completed days only, so today is never in it, and a night's
  last long requests come in late.
- **Backfill:** trigger with `from` and `to` (UTC days, both included). Activity remembers 30 completed days. Older days
  come from analytics (365 days), per model and workspace only, and only where activity was never read.
- **What is gone stays:** a day that was read from activity is never read again once OpenRouter has forgotten it.
- **Late data:** a day is provisional for three days after it ends, and is read again until then.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The key was disabled, deleted or has expired: put a new management key into the connection. |
| `permission_missing` | It is an inference key. Put a management key into the connection. |
| `configuration_invalid` | The message says which field of the connection to correct. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries, and the next run asks for what is missing. |
| `response_invalid` | Nothing was stored. Report the message. |

**Do not leave it red for 30 days:** what activity has forgotten by then comes back from analytics only, without
endpoints, upstream providers and keys.

More: `docs/providers/openrouter.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("openrouter", schedule="45 */6 * * *", doc=__doc__)
