{{
    config(
        materialized='incremental',
        incremental_strategy='replace_changed',
        unique_key=['usage_date', 'provider', 'connection_id'],
        on_schema_change='fail',
        indexes=[{'columns': ['usage_date', 'provider', 'connection_id']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

-- A table, because the ledger moves on while a build runs: this is the ledger as the build saw it, so that coverage and
-- quantities always speak of the same loads.
with

slices as (
    select * from {{ source('ops', 'slice') }}
),

connections as (
    select * from {{ source('ops', 'connection') }}
),

scopes as (
    select * from {{ source('ops', 'scope') }}
),

loads as (
    select * from {{ source('ops', 'load') }}
)

select
    ---------- ids
    connections.provider,
    slices.connection_id,
    slices.stream,
    slices.scope,
    slices.load_id,
    nullif(scopes.account_id, '') as account_id,

    ---------- strings
    nullif(scopes.account_name, '') as account_name,
    nullif(scopes.region, '') as region,
    slices.state,

    ---------- numerics
    loads.record_count,

    ---------- dates and timestamps
    slices.usage_date,
    loads.extracted_at

from slices
inner join connections on slices.connection_id = connections.connection_id
inner join scopes on slices.connection_id = scopes.connection_id and slices.scope = scopes.scope
left join loads on slices.load_id = loads.load_id
{{ only_changed(['connection_id', 'usage_date'], 'slices') }}
