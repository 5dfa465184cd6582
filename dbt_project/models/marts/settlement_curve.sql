{{ config(materialized='view') }}

select
    settlement.provider,
    settlement.stream,
    settlement.meter,
    curve.hours_after_day_end,
    count(*) as observed_slice_days,
    percentile_disc(0.5) within group (order by curve.known_share) as median_share,
    -- What nineteen of twenty days have reached at least.
    percentile_disc(0.95) within group (order by curve.known_share desc) as p95_share
from {{ recent_settlement() }} as settlement
cross join
    lateral unnest(
        array[{{ settlement_hours() | join(', ') }}], settlement.known_shares
    ) as curve (hours_after_day_end, known_share)
where curve.known_share is not null
group by settlement.provider, settlement.stream, settlement.meter, curve.hours_after_day_end
