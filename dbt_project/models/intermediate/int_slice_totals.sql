{{
    config(
        incremental_strategy='append',
        full_refresh=false,
        on_schema_change='append_new_columns',
        contract={'enforced': true},
        grants={'select': ['ai_usage_janitor']},
        indexes=[
            {'columns': ['usage_date', 'provider', 'connection_id']},
            {'columns': ['load_id', 'measurement']},
        ],
        pre_hook='{{ hold_target() }}',
        post_hook=[
            '{{ measure_versions_between_builds() }}',
            '{{ follow_the_ledger() }}',
            '{{ analyse_new_table() }}',
        ],
    )
}}

-- Only ever added to. What a version came to is measured when a build first sees it. If today's rules make something
-- else of the same records, it is measured once more: in a full refresh any version, else those of the changed days.
with

slices as (
    select * from {{ ref('stg_ops__slices') }}
    where
        load_id is not null
        {{ only_changed(['connection_id', 'usage_date'], keyword='and') }}
),

meters as (
    select
        connection_id,
        usage_date,
        stream,
        scope,
        meter,
        currency,
        sum(quantity) as quantity
    from {{ ref('int_usage_meters') }}
    {{ only_changed(['connection_id', 'usage_date']) }}
    group by connection_id, usage_date, stream, scope, meter, currency
),

totals as (
    select
        slices.load_id,
        meters.meter,
        meters.currency,
        meters.quantity
    from slices
    inner join meters
        on
            slices.connection_id = meters.connection_id
            and slices.usage_date = meters.usage_date
            and slices.stream = meters.stream
            and slices.scope = meters.scope
    union all
    -- Every version has this row, so that an empty one is told from one that was never measured.
    select
        load_id,
        'records' as meter,
        null as currency,
        record_count::numeric as quantity
    from slices
),

{% if is_incremental() -%}
    last_ones as (
        select
            known.load_id,
            max(known.measurement) as measurement
        from slices
        inner join {{ this }} as known on slices.load_id = known.load_id
        group by known.load_id
    ),

    known as (
        select
            stored.load_id,
            stored.meter,
            stored.currency,
            stored.quantity
        from last_ones
        inner join {{ this }} as stored
            on last_ones.load_id = stored.load_id and last_ones.measurement = stored.measurement
    ),

    differing as (
        select load_id from (
            select * from totals
            except
            select * from known
        ) as came
        union
        select load_id from (
            select * from known
            except
            select * from totals
        ) as went
    ),

    measured as (
        select
            totals.*,
            coalesce(last_ones.measurement, 0) + 1 as measurement
        from totals
        inner join differing on totals.load_id = differing.load_id
        left join last_ones on totals.load_id = last_ones.load_id
    )
{%- else -%}
    measured as (
        select
            *,
            1 as measurement
        from totals
    )
{%- endif %}

select
    slices.provider,
    slices.connection_id,
    slices.stream,
    slices.scope,
    slices.load_id,
    measured.measurement,
    measured.meter,
    measured.currency,
    measured.quantity,
    loads.state,
    true as was_published,
    slices.usage_date,
    loads.extracted_at,
    loads.loaded_at,
    now() as measured_at
from measured
inner join slices on measured.load_id = slices.load_id
inner join {{ ref('stg_ops__loads') }} as loads on measured.load_id = loads.load_id
