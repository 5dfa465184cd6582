-- A slice that counts is seen in usage_daily_detail and usage_daily, or was answered with nothing. A slice that is not
-- loaded is seen as a row without a model, in its own state.
with

slices as (
    select * from {{ tested_rows(ref('int_coverage_calendar')) }} as tested
    where is_counted
),

details as (
    select * from {{ tested_rows(ref('usage_daily_detail')) }} as tested
),

daily as (
    select * from {{ tested_rows(ref('usage_daily')) }} as tested
),

ledger as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where {{ is_usage() }}
)

select
    slices.connection_id,
    slices.stream,
    slices.scope,
    slices.usage_date,
    'no row in usage_daily_detail' as problem
from slices
left join details
    on
        slices.usage_date = details.usage_date
        and slices.connection_id = details.connection_id
        and slices.stream = details.stream
        and slices.scope = details.scope
        and slices.is_loaded = (details.raw_model_id is not null)
where
    details.usage_date is null
    and (slices.record_count > 0 or not slices.is_loaded)
    -- Predictions of Replicate that are listed as trainings as well count there; a day may have no others.
    and not (
        slices.is_loaded
        and slices.provider = 'replicate'
        and slices.stream = 'predictions'
        and not exists (
            select
            from {{ ref('stg_replicate__meters') }} as meters
            where
                meters.stream = 'predictions'
                and meters.connection_id = slices.connection_id
                and meters.usage_date = slices.usage_date
        )
    )

union all

select
    slices.connection_id,
    slices.stream,
    slices.scope,
    slices.usage_date,
    'no row without a model in usage_daily' as problem
from slices
left join daily
    on
        slices.usage_date = daily.usage_date
        and slices.provider = daily.provider
        and slices.account_id = daily.account_id
        and slices.region = daily.region
        and daily.model is null
where daily.usage_date is null and not slices.is_loaded

union all

select
    ledger.connection_id,
    ledger.stream,
    ledger.scope,
    ledger.usage_date,
    'no row that counts in int_coverage_calendar' as problem
from ledger
left join slices
    on
        ledger.usage_date = slices.usage_date
        and ledger.provider = slices.provider
        and coalesce(ledger.account_id, ledger.connection_id) = slices.account_id
        and ledger.stream = slices.stream
        and ledger.scope = slices.scope
where slices.usage_date is null
