{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['usage_date', 'provider', 'connection_id'],
        full_refresh=false,
        indexes=[{'columns': ['usage_date', 'provider', 'connection_id']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

marks (hours) as (
    values
    {% for hours in settlement_hours() -%}
        ({{ hours }}){{ '' if loop.last else ',' }}
    {% endfor -%}
),

totals as (
    select * from {{ ref('int_slice_totals') }}
    {{ only_changed(['connection_id', 'usage_date']) }}
),

-- Of a version that was measured more than once, what the rules of today say.
versions as (
    select distinct on (load_id)
        provider,
        connection_id,
        usage_date,
        stream,
        scope,
        load_id,
        measurement,
        state,
        extracted_at,
        (usage_date + 1)::timestamp at time zone 'UTC' as day_end
    from totals
    where meter = 'records'
    order by load_id asc, measurement desc
),

chain as (
    select
        *,
        lead(extracted_at) over later as replaced_at,
        first_value(extracted_at) over later as first_read_at,
        last_value(load_id) over whole as final_load_id,
        last_value(measurement) over whole as final_measurement,
        last_value(state) over whole as final_state,
        last_value(extracted_at) over whole as last_change_at
    from versions
    window
        later as (partition by connection_id, usage_date, stream, scope order by load_id),
        whole as (
            partition by connection_id, usage_date, stream, scope
            order by load_id rows between unbounded preceding and unbounded following
        )
),

settled as (
    select * from chain
    where final_state in ('final', 'confirmed_zero')
),

-- Meters that counted anything in any version: of nothing there is no share.
meters as (
    select
        settled.final_load_id,
        totals.meter,
        totals.currency,
        coalesce(
            sum(totals.quantity) filter (
                where totals.load_id = settled.final_load_id and totals.measurement = settled.final_measurement
            ), 0
        ) as final_value
    from settled
    inner join totals on settled.load_id = totals.load_id and settled.measurement = totals.measurement
    where totals.meter <> 'records'
    group by settled.final_load_id, totals.meter, totals.currency
    having bool_or(totals.quantity <> 0)
),

-- The version that was known at each mark; none, if the first reading came later.
known as (
    select
        settled.final_load_id,
        settled.load_id,
        settled.measurement,
        marks.hours
    from settled
    inner join marks
        on
            settled.extracted_at <= settled.day_end + make_interval(hours => marks.hours)
            and coalesce(settled.replaced_at > settled.day_end + make_interval(hours => marks.hours), true)
),

shares as (
    select
        meters.final_load_id,
        meters.meter,
        meters.currency,
        marks.hours,
        case
            when known.load_id is null then null
            when meters.final_value = coalesce(totals.quantity, 0) then 1
            when meters.final_value = 0 then 0
            -- Equal shares look equal, so that it does not matter which of them stands for all.
            else
                trim_scale(
                    greatest(
                        0,
                        round(
                            1 - abs(meters.final_value - coalesce(totals.quantity, 0)) / abs(meters.final_value), 6
                        )
                    )
                )
        end as known_share
    from meters
    cross join marks
    left join known on meters.final_load_id = known.final_load_id and marks.hours = known.hours
    left join totals
        on
            known.load_id = totals.load_id
            and known.measurement = totals.measurement
            and meters.meter = totals.meter
            and meters.currency is not distinct from totals.currency
)

select
    ---------- ids
    settled.provider,
    settled.connection_id,
    settled.stream,
    settled.scope,

    ---------- strings
    shares.meter,
    shares.currency,

    ---------- numerics
    round(extract(epoch from settled.first_read_at - settled.day_end) / 3600, 3) as first_read_hours,
    greatest(0, round(extract(epoch from settled.last_change_at - settled.day_end) / 3600, 3)) as settle_hours,
    array_agg(shares.known_share order by shares.hours) as known_shares,

    ---------- dates
    settled.usage_date

from shares
inner join settled on shares.final_load_id = settled.load_id
group by
    settled.provider, settled.connection_id, settled.stream, settled.scope, settled.usage_date, settled.first_read_at,
    settled.last_change_at, settled.day_end, shares.meter, shares.currency
