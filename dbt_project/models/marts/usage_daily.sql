{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['provider', 'usage_date'],
        indexes=[{'columns': ['usage_date', 'provider']}, {'columns': ['provider', 'account_id', 'usage_date']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

details as (
    select * from {{ ref('usage_daily_detail') }}
    {{ only_changed(['provider', 'usage_date']) }}
),

slices as (
    select * from {{ ref('int_coverage_calendar') }}
    where
        is_counted
        {{ only_changed(['provider', 'usage_date'], keyword='and') }}
),

-- A stream that was asked and had nothing takes nothing away from the certainty of the others; one that had nothing yet
-- (provisional, no records) does.
states as (
    select
        usage_date,
        provider,
        account_id,
        region,
        coverage
    from details
    union all
    select
        usage_date,
        provider,
        account_id,
        region,
        coverage
    from slices
    where coverage <> 'confirmed_zero'
),

places as (
    select
        usage_date,
        provider,
        account_id,
        region,
        {{ worst_coverage('coverage') }} as coverage
    from states
    group by usage_date, provider, account_id, region
),

sums as (
    select
        usage_date,
        provider,
        account_id,
        region,
        model,
        billed_currency as currency,
        {% for measure in daily_measures() -%}
            sum({{ measure }}) as {{ measure }},
        {% endfor -%}
        max(account_name) as account_name
    from details
    group by usage_date, provider, account_id, region, model, billed_currency
),

priced as (
    select
        *,
        {{ own_or_first_currency('currency', ['usage_date', 'provider', 'account_id', 'region', 'model']) }}
            as billed_currency
    from sums
)

select
    priced.usage_date,
    priced.provider,
    {{ category_of('priced.provider') }} as category,
    priced.account_id,
    max(priced.account_name) as account_name,
    priced.region,
    priced.model,
    {% for measure in daily_measures() -%}
        sum(priced.{{ measure }}) as {{ measure }},
    {% endfor -%}
    priced.billed_currency,
    places.coverage
from priced
inner join places
    on
        priced.usage_date = places.usage_date
        and priced.provider = places.provider
        and priced.account_id = places.account_id
        and priced.region = places.region
group by
    priced.usage_date, priced.provider, priced.account_id, priced.region, priced.model, priced.billed_currency,
    places.coverage
