{{
    config(
        incremental_strategy='mirror',
        unique_key=['provider', 'account_id', 'endpoint', 'sku', 'billed_currency'],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

unmapped as (
    select distinct raw_model_id
    from {{ ref('stg_google_vertex_ai__skus') }}
    where not is_mapped
),

-- Found by the index of raw_model_id: a few SKUs, however long the history.
used as (
    select detail.*
    from unmapped
    inner join {{ ref('usage_daily_detail') }} as detail
        on
            detail.provider = 'google_vertex_ai'
            and md5(unmapped.raw_model_id) = md5(detail.raw_model_id)
            and unmapped.raw_model_id = detail.raw_model_id
)

select
    provider,
    account_id,
    endpoint,
    raw_model_id as sku,
    billed_currency,
    sum(billed_cost) as billed_cost,
    sum(credits) as credits,
    sum(net_cost) as net_cost,
    min(usage_date) as first_usage_date,
    max(usage_date) as last_usage_date,
    count(distinct usage_date) as usage_days
from used
group by provider, account_id, endpoint, raw_model_id, billed_currency
