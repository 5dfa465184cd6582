select
    ---------- ids
    providers.provider,

    ---------- strings
    providers.label,
    providers.category,

    ---------- timestamps
    providers.planned_at,
    providers.next_run_at

from {{ source('ops', 'provider') }} as providers
