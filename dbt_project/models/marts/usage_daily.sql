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
    select * from {{ ref('coverage_calendar') }}
    {{ only_changed(['provider', 'usage_date']) }}
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
)

select
    details.usage_date,
    details.provider,
    details.account_id,
    max(details.account_name) as account_name,
    details.region,
    details.model,
    sum(details.requests) as requests,
    sum(details.input_tokens) as input_tokens,
    sum(details.uncached_input_tokens) as uncached_input_tokens,
    sum(details.cache_read_tokens) as cache_read_tokens,
    sum(details.cache_write_tokens) as cache_write_tokens,
    sum(details.output_tokens) as output_tokens,
    sum(details.output_images) as output_images,
    sum(details.compute_seconds) as compute_seconds,
    sum(details.api_calls) as api_calls,
    sum(details.billed_cost) as billed_cost,
    max(details.billed_currency) as billed_currency,
    places.coverage
from details
inner join places
    on
        details.usage_date = places.usage_date
        and details.provider = places.provider
        and details.account_id = places.account_id
        and details.region = places.region
group by
    details.usage_date, details.provider, details.account_id, details.region, details.model, places.coverage
