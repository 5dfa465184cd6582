{{ config(materialized='view') }}

-- A view, and so are those that stand on it: which day is the newest to expect follows the clock, not the builds.
with

connections as (
    select * from {{ ref('stg_ops__connections') }}
),

scopes as (
    select * from {{ ref('stg_ops__scopes') }}
),

streams as (
    select * from {{ ref('stg_ops__streams') }}
),

-- All scopes of one look have the same time; one that was taken out of the connection has an older one.
looks as (
    select
        connection_id,
        max(last_seen_at) as looked_at
    from scopes
    group by connection_id
),

places as (
    select
        connections.provider,
        scopes.connection_id,
        scopes.scope,
        least(
            connections.disconnected_at, case when scopes.last_seen_at < looks.looked_at then scopes.last_seen_at end
        ) as ended_at
    from scopes
    inner join connections on scopes.connection_id = connections.connection_id
    inner join looks on scopes.connection_id = looks.connection_id
)

select
    places.provider,
    places.connection_id,
    streams.stream,
    places.scope,
    places.ended_at is null as is_read,
    least(
        (now() at time zone 'UTC')::date - streams.newest_days_ago, (places.ended_at at time zone 'UTC')::date
    ) as newest_day,
    (now() at time zone 'UTC')::date - (streams.retention_days - 1) as first_readable_day,
    (now() at time zone 'UTC')::date - streams.lookback_days as look_back_from,
    streams.settle,
    streams.retention_days
from places
inner join streams on places.provider = streams.provider
