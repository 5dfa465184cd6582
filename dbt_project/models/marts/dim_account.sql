{{
    config(
        incremental_strategy='mirror',
        unique_key=['provider', 'account_id'],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

-- A scope's own account, and the accounts that only records name.
accounts as (
    select * from {{ distinct_by_index(ref('int_coverage_calendar'), ['provider', 'account_id']) }} as scoped
    union
    select * from {{ distinct_by_index(ref('usage_daily'), ['provider', 'account_id']) }} as recorded
),

days as (
    select
        accounts.provider,
        accounts.account_id,
        least(
            (
                select min(slices.usage_date)
                from {{ ref('int_coverage_calendar') }} as slices
                where slices.provider = accounts.provider and slices.account_id = accounts.account_id
            ),
            (
                select min(daily.usage_date)
                from {{ ref('usage_daily') }} as daily
                where daily.provider = accounts.provider and daily.account_id = accounts.account_id
            )
        ) as first_usage_date,
        greatest(
            (
                select max(slices.usage_date)
                from {{ ref('int_coverage_calendar') }} as slices
                where slices.provider = accounts.provider and slices.account_id = accounts.account_id
            ),
            (
                select max(daily.usage_date)
                from {{ ref('usage_daily') }} as daily
                where daily.provider = accounts.provider and daily.account_id = accounts.account_id
            )
        ) as last_usage_date
    from accounts
)

select
    days.provider,
    days.account_id,
    max(last_slices.account_name) as account_name,
    coalesce(bool_or(last_slices.connection_id = days.account_id), false) as is_placeholder,
    days.first_usage_date,
    days.last_usage_date
from days
left join {{ ref('int_coverage_calendar') }} as last_slices
    on
        days.provider = last_slices.provider
        and days.account_id = last_slices.account_id
        and days.last_usage_date = last_slices.usage_date
        and last_slices.is_counted
group by days.provider, days.account_id, days.first_usage_date, days.last_usage_date
