select
    ---------- ids
    connections.connection_id,
    connections.provider,
    connections.account_id,

    ---------- strings
    connections.account_name,

    ---------- timestamps
    connections.first_seen_at,
    connections.last_attempt_at,
    connections.last_success_at,
    connections.listed_at,
    connections.disconnected_at

from {{ source('ops', 'connection') }} as connections
