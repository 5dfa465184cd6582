{{ config(materialized='view') }}

with

streams as (
    select
        *,
        round(extract(epoch from settle) / 3600, 2) as configured_settle_hours
    from {{ ref('stg_ops__streams') }}
    where is_usage
),

-- Days with usage that were read from their end on: of others nobody knows when they stopped to change.
observed as (
    select
        streams.provider,
        streams.stream,
        settlement.usage_date,
        max(settlement.settle_hours) as settle_hours
    from {{ recent_settlement() }} as settlement
    inner join streams on settlement.provider = streams.provider and settlement.stream = streams.stream
    where settlement.first_read_hours <= 24 * greatest(1, streams.newest_days_ago)
    group by streams.provider, streams.stream, settlement.connection_id, settlement.scope, settlement.usage_date
),

figures as (
    select
        provider,
        stream,
        count(distinct usage_date)::integer as observed_days,
        percentile_disc(0.5) within group (order by settle_hours) as median_settle_hours,
        percentile_disc(0.95) within group (order by settle_hours) as p95_settle_hours
    from observed
    group by provider, stream
)

select
    streams.provider,
    streams.stream,
    coalesce(figures.observed_days, 0) as observed_days,
    figures.median_settle_hours,
    figures.p95_settle_hours,
    streams.configured_settle_hours,
    streams.lookback_days as configured_lookback_days,
    -- A reading h hours after the end of a day reaches that day with a look-back of 1 + h / 24 days. One day more shows
    -- when a source becomes slower. A stream without a look-back cannot be read again at all.
    case
        when figures.observed_days >= 14 and streams.lookback_days > 0
            then least(
                1 + greatest(
                    1 + floor(figures.p95_settle_hours / 24), ceil(streams.configured_settle_hours / 24)
                )::integer,
                streams.retention_days
            )
    end as recommended_lookback_days,
    coalesce(figures.observed_days >= 14, false) as enough_evidence
from streams
left join figures on streams.provider = figures.provider and streams.stream = figures.stream
