-- No day is in both reports: history is only read for days that activity never gave. (Without `with`, like the model it
-- reads.)
select
    ---------- ids
    records.connection_id,
    records.stream,
    records.scope,
    null::text as account_id,
    records.raw_model_id,
    -- In history, workspaces that share a name have only that; it keeps them apart from all others.
    coalesce(records.workspace_id, records.workspace_name) as project_id,
    part.credential_id,

    ---------- strings
    null::text as region,
    nullif(concat_ws('/', records.upstream_provider, records.endpoint_id), '') as endpoint,
    records.workspace_name as project_name,
    null::text as service_tier,
    meter.meter,
    case when meter.meter = 'billed_cost' then 'USD' end as currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    records.usage_date

from {{ ref('stg_openrouter__records') }} as records
-- The share of each key, then what no listed key accounts for: everything where keys were not asked for, what deleted
-- keys have used where they were, and the rounding of OpenRouter's own sums. Together they are the row, to the last
-- digit.
cross join
    lateral (
        select
            share.value ->> 'api_key_hash' as credential_id,
            (share.value ->> 'requests')::numeric as requests,
            (share.value ->> 'prompt_tokens')::numeric as prompt_tokens,
            (share.value ->> 'completion_tokens')::numeric as completion_tokens,
            (share.value ->> 'usage')::numeric as charged_usd,
            false as is_split
        from jsonb_array_elements(records.by_key) as share
        union all
        select
            null as credential_id,
            records.requests - coalesce(sum((share.value ->> 'requests')::numeric), 0) as requests,
            records.prompt_tokens - coalesce(sum((share.value ->> 'prompt_tokens')::numeric), 0) as prompt_tokens,
            records.completion_tokens
            - coalesce(sum((share.value ->> 'completion_tokens')::numeric), 0) as completion_tokens,
            records.charged_usd - coalesce(sum((share.value ->> 'usage')::numeric), 0) as charged_usd,
            -- Cached tokens are part of the prompt. Where that is not so, or not told, nothing is split.
            coalesce(records.cached_tokens <= records.prompt_tokens, false) as is_split
        from jsonb_array_elements(coalesce(records.by_key, '[]')) as share
    ) as part
inner join
    lateral (
        values
        ('activity', 'requests', part.requests, true),
        -- Cached input is in it, and activity does not tell it apart.
        ('activity', 'unsplit_input_tokens', part.prompt_tokens, true),
        ('activity', 'output_tokens', part.completion_tokens, true),
        ('activity', 'billed_cost', part.charged_usd, true),
        ('history', 'requests', part.requests, true),
        ('history', 'uncached_input_tokens', part.prompt_tokens - records.cached_tokens, part.is_split),
        ('history', 'cache_read_tokens', records.cached_tokens, part.is_split),
        ('history', 'unsplit_input_tokens', part.prompt_tokens, not part.is_split),
        ('history', 'output_tokens', part.completion_tokens, true),
        ('history', 'billed_cost', part.charged_usd, true)
    ) as meter (stream, meter, quantity, is_told)
    on records.stream = meter.stream and meter.is_told
where
    part.credential_id is not null
    or coalesce(jsonb_array_length(records.by_key), 0) = 0
    or part.requests <> 0
    or part.prompt_tokens <> 0
    or part.completion_tokens <> 0
    or part.charged_usd <> 0
