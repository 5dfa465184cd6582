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
    first_slice.usage_date as first_day,
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
left join terms
    on
        places.provider = terms.provider
        and places.connection_id = terms.connection_id
        and places.stream = terms.stream
        and places.scope = terms.scope
