"""
### Groq → `raw.groq_usage`

Reads rates of requests, input and output tokens per project and model from Groq's Prometheus metrics (Enterprise plan),
and turns each UTC day into counts: 300 times the sum of its 288 five-minute rates.

- **Safe to re-run:** always. A run replaces whole slices (connection × day); an unchanged slice writes nothing.
- **Backfill:** trigger with `from` and `to` (UTC days, both included); three calls per 31 days.
- **Late data:** a day is provisional for three days after it ends; the last three days are read again in every run.
- **Without the plan** the run is green: the days show as `not_entitled`, and the event says what to buy.
- **Days that Groq knows nothing of** (older than it keeps, or than the first use) stay `missing`, never zero: event
  `days_unknown`. Set `start_date` to leave them out.
- **Several organizations:** one connection each. One that fails leaves the others loaded.

| If it fails with | Then |
|---|---|
| `credential_rejected` | The key was revoked or has expired: put a new one into the connection. |
| `permission_missing` | The key may not read metrics: make one without restrictions. |
| `configuration_invalid` | The message says which field of the connection to correct. |
| `rate_limited`, `source_unavailable` | Nothing: the task retries. A partial answer is one of these. |
| `response_invalid` | Nothing was stored. Report the message. |

More: `docs/providers/groq.md`.
"""

from airflow.sdk import DAG

from ai_usage.orchestration.usage_dag import usage_dag

dag: DAG = usage_dag("groq", schedule="20 * * * *", doc=__doc__)
