-- Usage and cost side by side: a line of the bill names no request. (Without `with`, like the model it reads.)
select
    ---------- ids
    records.connection_id,
    records.stream,
    records.scope,
    null::text as account_id,
    case
        when records.stream = 'costs' then coalesce(records.line_item_model, records.line_item, 'no model')
        else coalesce(records.model, 'no model')
    end as raw_model_id,
    records.project_id,
    records.api_key_id as credential_id,

    ---------- strings
    null::text as region,
    records.stream || case when records.is_batch then '/batch' else '' end as endpoint,
    records.project_name,
    coalesce(records.service_tier, records.line_item_tier) as service_tier,
    meter.meter,
    case when meter.meter = 'billed_cost' then records.currency end as currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    records.usage_date

from {{ ref('stg_openai__records') }} as records
inner join
    lateral (
        values
        ('completions', 'requests', records.model_requests),
        -- All input is what OpenAI says it is. Cached and cache-write input are parts of it, and so are sound and
        -- images, in whichever of the parts.
        (
            'completions',
            'uncached_input_tokens',
            records.input_tokens
            - coalesce(records.cached_input_tokens, 0)
            - coalesce(records.cache_write_tokens, 0)
        ),
        ('completions', 'cache_read_tokens', coalesce(records.cached_input_tokens, 0)),
        ('completions', 'cache_write_tokens', coalesce(records.cache_write_tokens, 0)),
        ('completions', 'output_tokens', records.output_tokens),
        -- These know no cache.
        ('embeddings', 'requests', records.model_requests),
        ('embeddings', 'uncached_input_tokens', records.input_tokens),
        ('moderations', 'requests', records.model_requests),
        ('moderations', 'uncached_input_tokens', records.input_tokens),
        ('images', 'requests', records.model_requests),
        ('images', 'output_images', records.images),
        ('audio_speeches', 'requests', records.model_requests),
        ('audio_speeches', 'characters', records.characters),
        ('audio_transcriptions', 'requests', records.model_requests),
        ('audio_transcriptions', 'audio_seconds', records.audio_seconds),
        ('code_interpreter_sessions', 'server_tool_requests', records.sessions),
        ('file_search_calls', 'server_tool_requests', records.tool_calls),
        -- The model's requests that searched are among those of completions.
        ('web_search_calls', 'server_tool_requests', records.tool_calls),
        ('vector_stores', 'stored_bytes', records.stored_bytes),
        ('costs', 'billed_cost', records.amount)
    ) as meter (stream, meter, quantity)
    on records.stream = meter.stream
