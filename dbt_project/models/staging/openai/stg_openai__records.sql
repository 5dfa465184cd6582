{#- The union stands inside, over bare tables, so that PostgreSQL can look up the changed loads in each of them. -#}
{%- set streams = [
    'completions', 'embeddings', 'moderations', 'images', 'audio_speeches', 'audio_transcriptions', 'vector_stores',
    'code_interpreter_sessions', 'file_search_calls', 'web_search_calls', 'costs',
] -%}
-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    source.record ->> 'organization_id' as organization_id,
    source.record ->> 'project_id' as project_id,
    source.record ->> 'api_key_id' as api_key_id,
    source.record ->> 'user_id' as user_id,
    source.record ->> 'vector_store_id' as vector_store_id,

    ---------- strings
    source.record ->> 'project_name' as project_name,
    nullif(source.record ->> 'model', '') as model,
    source.record ->> 'service_tier' as service_tier,
    source.record ->> 'size' as size,
    source.record ->> 'source' as source,
    source.record ->> 'context_level' as context_level,

    ---------- booleans
    (source.record ->> 'batch')::boolean as is_batch,

    ---------- input tokens
    (source.record ->> 'input_tokens')::numeric as input_tokens,
    (source.record ->> 'input_uncached_tokens')::numeric as uncached_input_tokens,
    (source.record ->> 'input_cached_tokens')::numeric as cached_input_tokens,
    (source.record ->> 'input_cache_write_tokens')::numeric as cache_write_tokens,
    (source.record ->> 'input_text_tokens')::numeric as uncached_text_tokens,
    (source.record ->> 'input_audio_tokens')::numeric as uncached_audio_tokens,
    (source.record ->> 'input_image_tokens')::numeric as uncached_image_tokens,
    (source.record ->> 'input_cached_text_tokens')::numeric as cached_text_tokens,
    (source.record ->> 'input_cached_audio_tokens')::numeric as cached_audio_tokens,
    (source.record ->> 'input_cached_image_tokens')::numeric as cached_image_tokens,

    ---------- output tokens
    (source.record ->> 'output_tokens')::numeric as output_tokens,
    (source.record ->> 'output_text_tokens')::numeric as output_text_tokens,
    (source.record ->> 'output_audio_tokens')::numeric as output_audio_tokens,
    (source.record ->> 'output_image_tokens')::numeric as output_image_tokens,

    ---------- other counts
    (source.record ->> 'num_model_requests')::numeric as model_requests,
    (source.record ->> 'num_requests')::numeric as tool_calls,
    (source.record ->> 'num_sessions')::numeric as sessions,
    (source.record ->> 'images')::numeric as images,
    (source.record ->> 'characters')::numeric as characters,
    (source.record ->> 'seconds')::numeric as audio_seconds,
    (source.record ->> 'usage_bytes')::numeric as stored_bytes,

    ---------- the bill
    nullif(source.record ->> 'line_item', '') as line_item,
    -- A line item is a display text: `<tier> | <model> <modality>, <what>`. Whatever reads otherwise names no model.
    substring(source.record ->> 'line_item' from '^([^|,]+) [|] ') as line_item_tier,
    substring(
        regexp_replace(source.record ->> 'line_item', '^[^|,]+ [|] ', '')
        from '^([^ ,|]*[0-9-][^ ,|]*)(?: (?:text|audio|image|video))?, '
    ) as line_item_model,
    (source.record -> 'amount' ->> 'value')::numeric as amount,
    upper(source.record -> 'amount' ->> 'currency') as currency,
    (source.record ->> 'quantity')::numeric as quantity,
    source.record ->> 'quantity_unit' as quantity_unit,

    ---------- dates
    slices.usage_date

from (
    {% for stream in streams -%}
        select
            load_id,
            record
        from {{ source('openai', 'openai_' ~ stream) }}
        {{ 'union all' if not loop.last }}
    {% endfor -%}
) as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
