-- Written without `with`, like the other views over raw records.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    source.record ->> 'model' as raw_model_id,
    nullif(source.record ->> 'workspace_id', '') as workspace_id,

    ---------- strings
    nullif(source.record ->> 'workspace', '') as workspace_name,

    ---------- numerics
    (source.record ->> 'request_count')::numeric as requests,
    (source.record ->> 'byok_request_count')::numeric as byok_requests,
    (source.record ->> 'tokens_prompt')::numeric as prompt_tokens,
    (source.record ->> 'cached_tokens')::numeric as cached_tokens,
    (source.record ->> 'tokens_completion')::numeric as completion_tokens,
    (source.record ->> 'reasoning_tokens')::numeric as reasoning_tokens,

    ---------- US dollars
    (source.record ->> 'credits_usage')::numeric as charged_usd,
    (source.record ->> 'byok_usage')::numeric as byok_estimate_usd,

    ---------- dates
    slices.usage_date

from {{ source('openrouter', 'openrouter_history') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
