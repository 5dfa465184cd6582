-- No day is in both reports: history is only read for days that activity never gave. (Without `with`, like the models
-- it reads.)
select
    ---------- ids
    activity.connection_id,
    activity.stream,
    activity.scope,
    null::text as account_id,
    activity.raw_model_id,
    activity.workspace_id as project_id,
    part.credential_id,

    ---------- strings
    null::text as region,
    nullif(concat_ws('/', activity.upstream_provider, activity.endpoint_id), '') as endpoint,
    activity.workspace_name as project_name,
    null::text as service_tier,
    meter.meter,
    meter.currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    activity.usage_date

from {{ ref('stg_openrouter__activity') }} as activity
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
            (share.value ->> 'usage')::numeric as charged_usd
        from jsonb_array_elements(activity.by_key) as share
        union all
        select
            null as credential_id,
            activity.requests - coalesce(sum((share.value ->> 'requests')::numeric), 0) as requests,
            activity.prompt_tokens - coalesce(sum((share.value ->> 'prompt_tokens')::numeric), 0) as prompt_tokens,
            activity.completion_tokens
            - coalesce(sum((share.value ->> 'completion_tokens')::numeric), 0) as completion_tokens,
            activity.charged_usd - coalesce(sum((share.value ->> 'usage')::numeric), 0) as charged_usd
        from jsonb_array_elements(coalesce(activity.by_key, '[]')) as share
    ) as part
cross join
    lateral (
        values
        ('requests', part.requests, null),
        -- Cached input is in it, and activity does not tell it apart.
        ('unsplit_input_tokens', part.prompt_tokens, null),
        ('output_tokens', part.completion_tokens, null),
        ('billed_cost', part.charged_usd, 'USD')
    ) as meter (meter, quantity, currency)
where
    part.credential_id is not null
    or coalesce(jsonb_array_length(activity.by_key), 0) = 0
    or part.requests <> 0
    or part.prompt_tokens <> 0
    or part.completion_tokens <> 0
    or part.charged_usd <> 0

union all

select
    ---------- ids
    history.connection_id,
    history.stream,
    history.scope,
    null::text as account_id,
    history.raw_model_id,
    -- Workspaces that share a name have only that; it keeps them apart from all others.
    coalesce(history.workspace_id, history.workspace_name) as project_id,
    null::text as credential_id,

    ---------- strings
    null::text as region,
    null::text as endpoint,
    history.workspace_name as project_name,
    null::text as service_tier,
    meter.meter,
    meter.currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    history.usage_date

from {{ ref('stg_openrouter__history') }} as history
cross join
    lateral (
        values
        ('requests', history.requests, null),
        -- Cached tokens are part of the prompt. Where that is not so, or not told, nothing is split.
        (
            'uncached_input_tokens',
            case
                when history.cached_tokens <= history.prompt_tokens then history.prompt_tokens - history.cached_tokens
            end,
            null
        ),
        (
            'cache_read_tokens',
            case when history.cached_tokens <= history.prompt_tokens then history.cached_tokens end,
            null
        ),
        (
            'unsplit_input_tokens',
            case when (history.cached_tokens <= history.prompt_tokens) is not true then history.prompt_tokens end,
            null
        ),
        ('output_tokens', history.completion_tokens, null),
        ('billed_cost', history.charged_usd, 'USD')
    ) as meter (meter, quantity, currency)
where meter.quantity is not null
