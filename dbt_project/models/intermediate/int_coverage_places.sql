{{ config(materialized='view') }}

-- A few probes of an index per place: it costs the same however long the history is.
with

places as (
    select * from
        {{ distinct_by_index(ref('int_coverage_calendar'), ['provider', 'connection_id', 'stream', 'scope']) }} as place
),

terms as (
    select * from {{ ref('int_coverage_terms') }}
)

select
    places.provider,
    places.connection_id,
    places.stream,
    places.scope,
    last_slice.account_id,
    last_slice.account_name,
    last_slice.region,
    -- What was loaded once is expected for good, should the ledger have lost sight of it.
    least(first_slice.usage_date, first_load.usage_date) as first_day,
    -- A day that the ledger has is a day to answer for, however new it is.
    greatest(last_slice.usage_date, terms.newest_day) as last_day,
    terms.newest_day,
    terms.first_readable_day,
    coalesce(terms.is_read, false) as is_read,
    terms.retention_days
from places
cross join
    lateral (
        select slices.usage_date
        from {{ ref('int_coverage_calendar') }} as slices
        where
            slices.provider = places.provider
            and slices.connection_id = places.connection_id
            and slices.stream = places.stream
            and slices.scope = places.scope
        order by slices.usage_date
        limit 1
    ) as first_slice
cross join
    lateral (
        select
            slices.usage_date,
            slices.account_id,
            slices.account_name,
            slices.region
        from {{ ref('int_coverage_calendar') }} as slices
        where
            slices.provider = places.provider
            and slices.connection_id = places.connection_id
            and slices.stream = places.stream
            and slices.scope = places.scope
        order by slices.usage_date desc
        limit 1
    ) as last_slice
left join
    lateral (
        select loads.usage_date
        from {{ ref('stg_ops__loads') }} as loads
        where
            loads.connection_id = places.connection_id
            and loads.stream = places.stream
            and loads.scope = places.scope
            and loads.superseded_by is null
        order by loads.usage_date
        limit 1
    ) as first_load
    on true
left join terms
    on
        places.provider = terms.provider
        and places.connection_id = terms.connection_id
        and places.stream = terms.stream
        and places.scope = terms.scope
