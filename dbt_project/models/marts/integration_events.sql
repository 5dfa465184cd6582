{{ config(materialized='view') }}

with

stories as (
    select
        'story ' || problem_id as event_id,
        opened_at,
        resolved_at as closed_at,
        resolved_at is null as is_open,
        times_seen,
        last_seen_at,
        provider,
        connection_id,
        scope,
        stream,
        topic,
        kind,
        severity,
        message,
        action,
        resolution
    from {{ ref('stg_ops__problems') }}
),

-- What is part of a story is told by the story.
single_events as (
    select
        'event ' || event_id as event_id,
        occurred_at as opened_at,
        occurred_at as closed_at,
        false as is_open,
        1 as times_seen,
        occurred_at as last_seen_at,
        provider,
        connection_id,
        scope,
        stream,
        null::text as topic,
        kind,
        severity,
        message,
        action,
        null::text as resolution
    from {{ ref('stg_ops__events') }}
    where problem_id is null
)

select * from stories
union all
select * from single_events
