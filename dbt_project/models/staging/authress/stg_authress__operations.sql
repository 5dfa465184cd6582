-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,

    ---------- strings
    source.record ->> 'event' as event,
    source.record ->> 'resource' as resource,
    source.record ->> 'operation' as operation,
    source.record ->> 'result' as result,

    ---------- numerics
    (source.record ->> 'count')::numeric as calls,

    ---------- dates
    slices.usage_date

from {{ source('authress', 'authress_operations') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
