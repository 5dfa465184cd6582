select
    ---------- ids
    extractions.extraction_id,
    extractions.provider,
    extractions.connection_id,
    extractions.stream,
    extractions.scope,
    extractions.run_id,

    ---------- strings
    extractions.outcome,
    extractions.error_kind,
    extractions.error_message,

    ---------- numerics
    extractions.calls,
    extractions.retries,
    extractions.throttled,
    extractions.bytes_received,
    extractions.records_read,
    extractions.records_written,
    extractions.slices_changed,

    ---------- dates and timestamps
    extractions.window_first,
    extractions.window_last,
    extractions.started_at,
    extractions.finished_at

from {{ source('ops', 'extraction') }} as extractions
