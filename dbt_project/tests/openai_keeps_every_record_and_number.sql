-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'openai' and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_completions') }} as source on slices.load_id = source.load_id
    where slices.stream = 'completions'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_embeddings') }} as source on slices.load_id = source.load_id
    where slices.stream = 'embeddings'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_moderations') }} as source on slices.load_id = source.load_id
    where slices.stream = 'moderations'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_images') }} as source on slices.load_id = source.load_id
    where slices.stream = 'images'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_audio_speeches') }} as source on slices.load_id = source.load_id
    where slices.stream = 'audio_speeches'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_audio_transcriptions') }} as source on slices.load_id = source.load_id
    where slices.stream = 'audio_transcriptions'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_vector_stores') }} as source on slices.load_id = source.load_id
    where slices.stream = 'vector_stores'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_code_interpreter_sessions') }} as source on slices.load_id = source.load_id
    where slices.stream = 'code_interpreter_sessions'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_file_search_calls') }} as source on slices.load_id = source.load_id
    where slices.stream = 'file_search_calls'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_web_search_calls') }} as source on slices.load_id = source.load_id
    where slices.stream = 'web_search_calls'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openai', 'openai_costs') }} as source on slices.load_id = source.load_id
    where slices.stream = 'costs'
),

names (stream, field, measure) as (
    values
    ('completions', 'num_model_requests', 'requests'),
    ('embeddings', 'num_model_requests', 'requests'),
    ('moderations', 'num_model_requests', 'requests'),
    ('images', 'num_model_requests', 'requests'),
    ('audio_speeches', 'num_model_requests', 'requests'),
    ('audio_transcriptions', 'num_model_requests', 'requests'),
    ('completions', 'input_tokens', 'input_tokens'),
    ('embeddings', 'input_tokens', 'input_tokens'),
    ('moderations', 'input_tokens', 'input_tokens'),
    ('completions', 'input_cached_tokens', 'cache_read_tokens'),
    ('completions', 'input_cache_write_tokens', 'cache_write_tokens'),
    ('completions', 'output_tokens', 'output_tokens'),
    ('images', 'images', 'output_images'),
    ('audio_speeches', 'characters', 'characters'),
    ('audio_transcriptions', 'seconds', 'audio_seconds'),
    ('code_interpreter_sessions', 'num_sessions', 'server_tool_requests'),
    ('file_search_calls', 'num_requests', 'server_tool_requests'),
    ('web_search_calls', 'num_requests', 'server_tool_requests'),
    ('vector_stores', 'usage_bytes', 'stored_bytes')
),

raw_numbers as (
    select
        records.connection_id,
        records.usage_date,
        names.measure,
        (records.record ->> names.field)::numeric as quantity
    from records
    inner join names on records.stream = names.stream and jsonb_exists(records.record, names.field)
    union all
    select
        connection_id,
        usage_date,
        'billed_cost ' || upper(record #>> '{amount,currency}') as measure,
        (record #>> '{amount,value}')::numeric as quantity
    from records
    where stream = 'costs'
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
        *,
        case when meter = 'billed_cost' then 'billed_cost ' || currency else meter end as measure
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'openai'
),

meter_sums as (
    select
        connection_id,
        usage_date,
        measure,
        sum(quantity) as quantity
    from meters
    where measure <> 'uncached_input_tokens'
    group by connection_id, usage_date, measure
    union all
    select
        connection_id,
        usage_date,
        'input_tokens' as measure,
        sum(quantity) as quantity
    from meters
    where measure in ('uncached_input_tokens', 'cache_read_tokens', 'cache_write_tokens')
    group by connection_id, usage_date
)

{{ differences_from_raw() }}
