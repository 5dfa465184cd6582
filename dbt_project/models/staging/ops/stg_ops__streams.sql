select
    provider,
    stream,
    summary,
    settle,
    lookback_days,
    retention_days,
    newest_days_ago,
    is_usage
from {{ source('ops', 'stream') }}
