-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once; what is sampled stays apart from what is counted.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'fireworks' and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('fireworks', 'fireworks_usage') }} as source on slices.load_id = source.load_id
    where slices.stream = 'usage'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('fireworks', 'fireworks_costs') }} as source on slices.load_id = source.load_id
    where slices.stream = 'costs'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('fireworks', 'fireworks_throughput') }} as source on slices.load_id = source.load_id
    where slices.stream = 'throughput'
),

names (stream, kind, field, measure) as (
    values
    ('usage', 'serverlessCosts', 'promptTokens', 'input_tokens'),
    ('usage', 'serverlessCosts', 'completionTokens', 'output_tokens'),
    ('usage', 'serverlessCosts', 'audioInputSeconds', 'audio_seconds'),
    ('usage', 'dedicatedCosts', 'acceleratorSeconds', 'compute_seconds'),
    ('usage', 'trainingCosts', 'acceleratorSeconds', 'compute_seconds'),
    ('throughput', null, 'sampled_seconds', 'sampled_seconds'),
    ('throughput', null, 'requests', 'sampled_requests'),
    ('throughput', null, 'prompt_tokens', 'sampled_input_tokens')
),

raw_numbers as (
    select
        records.connection_id,
        records.usage_date,
        names.measure,
        (records.record ->> names.field)::numeric as quantity
    from records
    inner join names
        on
            records.stream = names.stream
            and (records.record ->> 'list') is not distinct from names.kind
            and jsonb_exists(records.record, names.field)
    union all
    select
        connection_id,
        usage_date,
        'billed_cost ' || (coalesce(record -> 'subtotal', record -> 'totalCost') ->> 'currencyCode') as measure,
        (coalesce(record -> 'subtotal', record -> 'totalCost') ->> 'units')::numeric
        + (coalesce(record -> 'subtotal', record -> 'totalCost') ->> 'nanos')::numeric / 1000000000 as quantity
    from records
    where stream = 'costs' or record ->> 'list' = 'lineItems'
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

meters as (
    select
        connection_id,
        usage_date,
        case
            when meter = 'billed_cost' then 'billed_cost ' || currency
            when meter in ('uncached_input_tokens', 'cache_read_tokens', 'unsplit_input_tokens') then 'input_tokens'
            when meter in ('sampled_uncached_input_tokens', 'sampled_cache_read_tokens') then 'sampled_input_tokens'
            else meter
        end as measure,
        quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'fireworks'
),

meter_sums as (
    select
        connection_id,
        usage_date,
        measure,
        sum(quantity) as quantity
    from meters
    group by connection_id, usage_date, measure
),

told_caches as (
    select
        connection_id,
        usage_date,
        sum((record ->> 'cachedPromptTokens')::numeric) as quantity,
        bool_and(jsonb_exists(record, 'cachedPromptTokens')) as is_told
    from records
    where record ->> 'list' = 'serverlessCosts'
    group by connection_id, usage_date
),

cache_sums as (
    select
        connection_id,
        usage_date,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'fireworks' and meter = 'cache_read_tokens'
    group by connection_id, usage_date
)

{{ differences_from_raw() }}

union all

select
    told_caches.connection_id,
    told_caches.usage_date,
    'cache_read_tokens' as what,
    told_caches.quantity as expected,
    cache_sums.quantity as found
from told_caches
left join cache_sums
    on told_caches.connection_id = cache_sums.connection_id and told_caches.usage_date = cache_sums.usage_date
where told_caches.is_told and told_caches.quantity is distinct from cache_sums.quantity
