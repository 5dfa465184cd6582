{{
    config(
        materialized='incremental',
        incremental_strategy='mirror',
        unique_key=['connection_id', 'usage_date'],
        on_schema_change='fail',
        pre_hook='{{ hold_target() }}',
        post_hook='analyze {{ this }}',
    )
}}

-- The list is taken once, at the start of a build, and kept: every later model and test, and a retry of the ones that
-- failed, means the same days, whatever is loaded in the meantime.
with

pending as (
    select * from {{ source('ops', 'pending_rebuild') }}
),

connections as (
    select * from {{ source('ops', 'connection') }}
)

select distinct
    ---------- ids
    connections.provider,
    pending.connection_id,

    ---------- dates
    pending.usage_date

from pending
inner join connections on pending.connection_id = connections.connection_id
