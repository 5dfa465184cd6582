-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once, even if a training is listed as a prediction, too.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'replicate' and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('replicate', 'replicate_predictions') }} as source on slices.load_id = source.load_id
    where slices.stream = 'predictions'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('replicate', 'replicate_trainings') }} as source on slices.load_id = source.load_id
    where slices.stream = 'trainings'
),

runs as (
    select distinct on (connection_id, record ->> 'id')
        connection_id,
        usage_date,
        record
    from records
    order by connection_id asc, record ->> 'id' asc, stream desc
),

names (field, measure) as (
    values
    ('predict_time', 'compute_seconds'),
    ('input_token_count', 'unsplit_input_tokens'),
    ('output_token_count', 'output_tokens')
),

raw_numbers as (
    select
        runs.connection_id,
        runs.usage_date,
        names.measure,
        (runs.record -> 'metrics' ->> names.field)::numeric as quantity
    from runs
    inner join names on jsonb_exists(runs.record -> 'metrics', names.field)
    union all
    select
        connection_id,
        usage_date,
        'requests' as measure,
        1 as quantity
    from runs
),

raw_sums as (
    select
        connection_id,
        usage_date,
        measure,
        sum(quantity) as quantity
    from raw_numbers
    group by connection_id, usage_date, measure
),

meter_sums as (
    select
        connection_id,
        usage_date,
        meter as measure,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'replicate'
    group by connection_id, usage_date, meter
)

{{ differences_from_raw(absent_is_zero=false) }}
