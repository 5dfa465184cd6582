{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['provider', 'usage_date'],
        indexes=[{'columns': ['usage_date', 'provider']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

balances as (
    select
        *,
        'openrouter' as provider,
        'USD' as currency,
        coalesce(account_id, connection_id) as owner_id
    from {{ ref('stg_openrouter__credits') }}
    {{ only_changed(['connection_id', 'usage_date']) }}
),

-- Two connections that read the same account tell the same balance: the later look counts.
ranked as (
    select
        *,
        row_number() over (
            partition by provider, usage_date, owner_id order by extracted_at desc, connection_id asc
        ) as preference
    from balances
)

select
    usage_date,
    provider,
    owner_id as account_id,
    account_name,
    credits_bought,
    credits_used,
    credits_bought - credits_used as credits_left,
    currency,
    extracted_at
from ranked
where preference = 1
