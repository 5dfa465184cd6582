{{ config(materialized='view') }}

-- The sums are tables; what should be there by now is worked out when it is asked for, so that a month with a day that
-- no run has ever planned does not look whole.
with

places as (
    select * from {{ ref('int_coverage_places') }}
),

-- What two connections read of the same account is expected once, on the days of either.
expected_places as (
    select
        provider,
        account_id,
        stream,
        scope,
        max(account_name) as account_name,
        coalesce(min(nullif(region, 'unspecified')), 'unspecified') as region,
        range_agg(daterange(first_day, last_day, '[]')) as days
    from places
    group by provider, account_id, stream, scope
),

expected_months as (
    select
        expected_places.*,
        months.began_at::date as usage_month,
        (
            select sum(upper(part.days) - lower(part.days))
            from
                unnest(
                    expected_places.days
                    * datemultirange(
                        daterange(months.began_at::date, (months.began_at + interval '1 month')::date)
                    )
                ) as part (days)
        ) as expected_days
    from expected_places
    cross join
        lateral generate_series(
            date_trunc('month', lower(expected_places.days)::timestamp),
            upper(expected_places.days)::timestamp - interval '1 day',
            interval '1 month'
        ) as months (began_at)
),

regions as (
    select
        expected.usage_month,
        expected.provider,
        expected.account_id,
        max(expected.account_name) as account_name,
        expected.region,
        sum(coalesce(covered.covered_days, 0)) as covered_days,
        sum(expected.expected_days) as expected_days
    from expected_months as expected
    left join {{ ref('int_coverage_monthly') }} as covered
        on
            expected.usage_month = covered.usage_month
            and expected.provider = covered.provider
            and expected.account_id = covered.account_id
            and expected.stream = covered.stream
            and expected.scope = covered.scope
    where expected.expected_days > 0
    group by expected.usage_month, expected.provider, expected.account_id, expected.region
),

-- Where the records tell the region, a lost day may have had usage in any of them: all of the account's days count. If
-- they tell the account too, all of the provider's do.
accounts as (
    select
        usage_month,
        provider,
        account_id,
        sum(covered_days) as covered_days,
        sum(expected_days) as expected_days
    from regions
    group by usage_month, provider, account_id
),

providers as (
    select
        usage_month,
        provider,
        sum(covered_days) as covered_days,
        sum(expected_days) as expected_days
    from regions
    group by usage_month, provider
),

usage as (
    select
        usage.*,
        coalesce(regions.covered_days, accounts.covered_days, providers.covered_days, 0) as covered_days,
        coalesce(regions.expected_days, accounts.expected_days, providers.expected_days) as expected_days
    from {{ ref('int_usage_monthly') }} as usage
    left join regions
        on
            usage.usage_month = regions.usage_month
            and usage.provider = regions.provider
            and usage.account_id = regions.account_id
            and usage.region = regions.region
    left join accounts
        on
            usage.usage_month = accounts.usage_month
            and usage.provider = accounts.provider
            and usage.account_id = accounts.account_id
    left join providers on usage.usage_month = providers.usage_month and usage.provider = providers.provider
),

-- What is lacking has a row without a model here too, so that no sum can pass over it unnoticed.
everything as (
    select
        usage_month,
        provider,
        account_id,
        account_name,
        region,
        model,
        {% for measure in daily_measures() -%}
            {{ measure }},
        {% endfor -%}
        billed_currency,
        covered_days,
        expected_days
    from usage
    union all
    select
        usage_month,
        provider,
        account_id,
        account_name,
        region,
        null as model,
        {% for measure in daily_measures() -%}
            null as {{ measure }},
        {% endfor -%}
        null as billed_currency,
        covered_days,
        expected_days
    from regions
    where covered_days < expected_days
)

select
    usage_month,
    provider,
    {{ category_of('provider') }} as category,
    account_id,
    account_name,
    region,
    model,
    {% for measure in daily_measures() -%}
        {{ measure }}{{ ' as stored_byte_days' if measure == 'stored_bytes' }},
    {% endfor -%}
    billed_currency,
    covered_days / expected_days as covered_share,
    covered_days::bigint as covered_days,
    expected_days::bigint as expected_days
from everything
