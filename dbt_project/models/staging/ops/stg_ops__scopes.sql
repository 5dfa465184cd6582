select
    ---------- ids
    scopes.connection_id,
    scopes.scope,
    scopes.account_id,

    ---------- strings
    scopes.account_name,
    scopes.region,

    ---------- timestamps
    scopes.first_seen_at,
    scopes.last_seen_at

from {{ source('ops', 'scope') }} as scopes
