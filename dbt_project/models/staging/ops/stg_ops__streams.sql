select
    ---------- ids
    streams.provider,
    streams.stream,

    ---------- strings
    streams.summary,

    ---------- promises
    streams.settle,
    streams.lookback_days,
    streams.retention_days,
    streams.newest_days_ago,
    streams.is_usage

from {{ source('ops', 'stream') }} as streams
