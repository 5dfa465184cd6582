{{ config(materialized='view') }}

with

places as (
    select
        places.*,
        -- Probes of indexes, from the newest end.
        (
            select slices.usage_date
            from {{ ref('int_coverage_calendar') }} as slices
            where
                slices.provider = places.provider
                and slices.connection_id = places.connection_id
                and slices.stream = places.stream
                and slices.scope = places.scope
                and slices.is_loaded
            order by slices.usage_date desc
            limit 1
        ) as covered_day,
        (
            select attempts.finished_at
            from {{ ref('stg_ops__extractions') }} as attempts
            where
                attempts.connection_id = places.connection_id
                and attempts.stream = places.stream
                and attempts.scope = places.scope
                and attempts.outcome in ('loaded', 'unchanged')
            order by attempts.started_at desc
            limit 1
        ) as read_at,
        (
            select attempts.finished_at
            from {{ ref('stg_ops__extractions') }} as attempts
            where
                attempts.connection_id = places.connection_id
                and attempts.stream = places.stream
                and attempts.scope = places.scope
                and attempts.outcome = 'loaded'
            order by attempts.started_at desc
            limit 1
        ) as changed_at
    from {{ ref('int_coverage_places') }} as places
    where places.is_read
),

sources as (
    select
        provider,
        connection_id,
        stream,
        max(newest_day) as newest_expected_day,
        min(covered_day) as newest_covered_day,
        -- A scope that has nothing at all is behind since its first day.
        greatest(max(newest_day - coalesce(covered_day, first_day - 1)), 0) as days_behind,
        max(read_at) as last_read_at,
        max(changed_at) as last_change_at
    from places
    group by provider, connection_id, stream
)

select
    provider,
    connection_id,
    stream,
    newest_expected_day,
    newest_covered_day,
    days_behind,
    last_read_at,
    last_change_at,
    -- A day that has only just begun is held against nobody.
    days_behind <= 1 as is_fresh
from sources
