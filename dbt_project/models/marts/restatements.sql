{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['provider', 'usage_date'],
        indexes=[{'columns': ['usage_date', 'provider']}, {'columns': ['restated_at']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

-- A version of a slice beside the one before it, meter by meter.
with

totals as (
    select * from {{ ref('int_slice_totals') }}
    {{ only_changed(['provider', 'usage_date']) }}
),

calendar as (
    select * from {{ ref('int_coverage_calendar') }}
    {{ only_changed(['provider', 'usage_date']) }}
),

steps as (
    select
        *,
        lag(load_id) over versions as old_load_id,
        lag(measurement) over versions as old_measurement,
        lag(state) over versions as old_state,
        lag(was_published) over versions as old_was_published,
        lag(extracted_at) over versions as old_extracted_at
    from totals
    where meter = 'records'
    window versions as (partition by connection_id, usage_date, stream, scope order by load_id, measurement)
),

sides as (
    select
        steps.load_id,
        steps.measurement,
        totals.meter,
        totals.currency,
        null::numeric as old_value,
        totals.quantity as new_value
    from steps
    inner join totals on steps.load_id = totals.load_id and steps.measurement = totals.measurement
    where steps.old_load_id is not null and totals.meter <> 'records'
    union all
    select
        steps.load_id,
        steps.measurement,
        totals.meter,
        totals.currency,
        totals.quantity as old_value,
        null as new_value
    from steps
    inner join totals on steps.old_load_id = totals.load_id and steps.old_measurement = totals.measurement
    where totals.meter <> 'records'
),

changes as (
    select
        load_id,
        measurement,
        meter,
        currency,
        sum(old_value) as old_value,
        sum(new_value) as new_value
    from sides
    group by load_id, measurement, meter, currency
    -- A meter that goes from nothing to zero counts no more than before.
    having coalesce(sum(old_value), 0) <> coalesce(sum(new_value), 0)
)

select
    ---------- ids
    steps.provider,
    coalesce(calendar.account_id, steps.connection_id) as account_id,
    steps.connection_id,
    steps.stream,
    steps.scope,
    steps.old_load_id,
    steps.load_id as new_load_id,

    ---------- strings
    changes.meter,
    changes.currency,
    case when steps.load_id = steps.old_load_id then 'rules' else 'provider' end as cause,
    steps.old_state,
    steps.state as new_state,

    ---------- numerics
    changes.old_value,
    changes.new_value,
    coalesce(changes.new_value, 0) - coalesce(changes.old_value, 0) as delta,

    ---------- booleans
    steps.load_id <> steps.old_load_id and steps.old_state in ('final', 'confirmed_zero') as was_settled,
    steps.old_was_published as was_published,
    coalesce(calendar.is_counted, false) as is_counted,

    ---------- dates and timestamps
    steps.usage_date,
    steps.old_extracted_at,
    steps.extracted_at as new_extracted_at,
    case when steps.load_id = steps.old_load_id then steps.measured_at else steps.loaded_at end as restated_at

from changes
inner join steps on changes.load_id = steps.load_id and changes.measurement = steps.measurement
left join calendar
    on
        steps.usage_date = calendar.usage_date
        and steps.connection_id = calendar.connection_id
        and steps.stream = calendar.stream
        and steps.scope = calendar.scope
