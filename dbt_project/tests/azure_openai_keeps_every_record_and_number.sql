-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once, from one of the two families.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'azure_openai' and load_id is not null
),

names (metric, measure, family) as (
    values
    ('InputTokens', 'input_tokens', 1),
    ('ProcessedPromptTokens', 'input_tokens', 2),
    ('cacheReadInputTokens', 'cache_read_tokens', 1),
    ('ephemeral5mInputTokens', 'cache_write_5m_tokens', 1),
    ('ephemeral1hInputTokens', 'cache_write_1h_tokens', 1),
    ('OutputTokens', 'output_tokens', 1),
    ('GeneratedTokens', 'output_tokens', 2),
    ('ModelRequests', 'all_requests', 1),
    ('AzureOpenAIRequests', 'all_requests', 2),
    ('GeneratedImages', 'output_images', 1)
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        source.ctid as place,
        source.record
    from slices
    inner join {{ source('azure_openai', 'azure_openai_metrics') }} as source on slices.load_id = source.load_id
),

of_both_families as (
    select
        records.connection_id,
        records.usage_date,
        records.place,
        names.measure,
        names.family,
        sum((series.value ->> 'total')::numeric) as quantity
    from records
    cross join lateral jsonb_array_elements(records.record -> 'series') as series (value)
    inner join names on series.value ->> 'metric' = names.metric
    group by records.connection_id, records.usage_date, records.place, names.measure, names.family
),

of_one_family as (
    select distinct on (place, measure) *
    from of_both_families
    order by place, measure, family
),

raw_sums as (
    select
        connection_id,
        usage_date,
        measure,
        sum(quantity) as quantity
    from of_one_family
    group by connection_id, usage_date, measure
),

meters as (
    select
        connection_id,
        usage_date,
        case
            when meter in ('uncached_input_tokens', 'unsplit_input_tokens') then 'input_tokens'
            when meter in ('requests', 'client_errors', 'server_errors', 'throttled_requests') then 'all_requests'
            else meter
        end as measure,
        quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'azure_openai'
),

meter_sums as (
    select
        connection_id,
        usage_date,
        measure,
        sum(quantity) as quantity
    from meters
    group by connection_id, usage_date, measure
)

{{ differences_from_raw() }}
