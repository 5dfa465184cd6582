select
    event_id,
    occurred_at,
    provider,
    connection_id,
    scope,
    stream,
    kind,
    severity,
    message,
    action,
    run_id,
    problem_id
from {{ source('ops', 'event') }}
