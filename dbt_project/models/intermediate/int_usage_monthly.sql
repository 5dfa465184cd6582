{{
    config(
        incremental_strategy='replace_changed_months',
        unique_key=['provider', 'usage_month'],
        full_refresh=false,
        indexes=[{'columns': ['usage_month', 'provider']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

sums as (
    select
        date_trunc('month', daily.usage_date)::date as usage_month,
        daily.provider,
        daily.account_id,
        daily.region,
        daily.model,
        daily.billed_currency as currency,
        {% for measure in daily_measures() -%}
            sum(daily.{{ measure }}) as {{ measure }},
        {% endfor -%}
        max(daily.account_name) as account_name
    from {{ ref('usage_daily') }} as daily
    {{ only_changed_months('daily') }}
    -- What is lacking is told by the coverage of the month.
    where daily.model is not null
    group by
        date_trunc('month', daily.usage_date)::date,
        daily.provider,
        daily.account_id,
        daily.region,
        daily.model,
        daily.billed_currency
),

-- A day without a cost goes with the days that have one, unless they are billed in two currencies.
priced as (
    select
        *,
        {{ own_or_first_currency('currency', ['usage_month', 'provider', 'account_id', 'region', 'model']) }}
            as billed_currency
    from sums
)

select
    usage_month,
    provider,
    account_id,
    region,
    model,
    {% for measure in daily_measures() -%}
        sum({{ measure }}) as {{ measure }},
    {% endfor -%}
    billed_currency,
    max(account_name) as account_name
from priced
group by usage_month, provider, account_id, region, model, billed_currency
