{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['provider', 'usage_date'],
        full_refresh=false,
        indexes=[
            {'columns': ['usage_date', 'provider']},
            {'columns': ['provider', 'account_id', 'usage_date']},
            {'columns': ['provider', 'connection_id', 'stream', 'scope', 'usage_date']},
        ],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

slices as (
    select
        *,
        -- Until the provider has told the account, the connection stands for it.
        coalesce(account_id, connection_id) as owner_id
    from {{ ref('stg_ops__slices') }}
    {{ only_changed(['provider', 'usage_date']) }}
),

ranked as (
    select
        *,
        -- One day of one account has one name, whichever of its connections knows it.
        max(account_name) over (partition by provider, usage_date, owner_id) as owner_name,
        -- Two connections that read the same account must not count it twice. What is loaded goes before what is not,
        -- then the later reading; of two that are not loaded, the one that needs attention more.
        row_number() over (
            partition by provider, usage_date, owner_id, stream, scope
            order by
                (load_id is not null) desc,
                extracted_at desc nulls last,
                array_position({{ coverage_order() }}, state) desc,
                connection_id
        ) as preference
    from slices
    where {{ is_usage() }}
)

select
    provider,
    owner_id as account_id,
    owner_name as account_name,
    coalesce(region, 'unspecified') as region,
    connection_id,
    stream,
    scope,
    state as coverage,
    load_id is not null as is_loaded,
    coalesce(record_count, 0) as record_count,
    preference = 1 as is_counted,
    usage_date,
    extracted_at
from ranked
