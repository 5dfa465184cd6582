select
    load_id,
    provider,
    connection_id,
    stream,
    scope,
    usage_date,
    state,
    record_count,
    digest,
    extracted_at,
    loaded_at,
    extraction_id,
    run_id,
    superseded_by,
    superseded_at,
    pruned_at
from {{ source('ops', 'load') }}
