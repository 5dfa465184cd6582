-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once.

with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'aws_bedrock' and load_id is not null
),

names (metric, meter) as (
    values
    ('Invocations', 'requests'),
    ('InputTokenCount', 'uncached_input_tokens'),
    ('CacheReadInputTokenCount', 'cache_read_tokens'),
    ('CacheReadInputTokens', 'cache_read_tokens'),
    ('CacheWriteInputTokenCount', 'cache_write_tokens'),
    ('CacheWriteInputTokens', 'cache_write_tokens'),
    ('OutputTokenCount', 'output_tokens'),
    ('OutputImageCount', 'output_images'),
    ('InvocationClientErrors', 'client_errors'),
    ('InvocationServerErrors', 'server_errors'),
    ('InvocationThrottles', 'throttled_requests'),
    ('Inferences', 'requests'),
    ('TotalInputTokens', 'unsplit_input_tokens'),
    ('TotalOutputTokens', 'output_tokens'),
    ('InferenceClientErrors', 'client_errors')
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        source.ctid as place,
        source.record
    from slices
    inner join {{ source('aws_bedrock', 'aws_bedrock_metrics') }} as source on slices.load_id = source.load_id
),

-- The two spellings of a cache metric are one number; the longer one is today's.
raw_numbers as (
    select distinct on (records.place, names.meter)
        records.connection_id,
        records.usage_date,
        names.meter,
        metric.value::numeric as quantity
    from records
    cross join lateral jsonb_each_text(records.record -> 'metrics') as metric (key, value)
    inner join names on metric.key = names.metric
    order by records.place, names.meter, length(metric.key) desc
),

raw_sums as (
    select
        connection_id,
        usage_date,
        meter,
        sum(quantity) as quantity
    from raw_numbers
    group by connection_id, usage_date, meter
),

meter_sums as (
    select
        connection_id,
        usage_date,
        meter,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'aws_bedrock'
    group by connection_id, usage_date, meter
)

{{ differences_from_raw(what='meter') }}
