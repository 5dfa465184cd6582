-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    source.record ->> 'model_permaslug' as raw_model_id,
    source.record ->> 'model' as model_slug,
    nullif(source.record ->> 'endpoint_id', '') as endpoint_id,
    nullif(source.record ->> 'workspace_id', '') as workspace_id,

    ---------- strings
    nullif(source.record ->> 'provider_name', '') as upstream_provider,
    nullif(source.record ->> 'workspace_name', '') as workspace_name,

    ---------- numerics
    (source.record ->> 'requests')::numeric as requests,
    (source.record ->> 'byok_requests')::numeric as byok_requests,
    (source.record ->> 'prompt_tokens')::numeric as prompt_tokens,
    (source.record ->> 'completion_tokens')::numeric as completion_tokens,
    (source.record ->> 'reasoning_tokens')::numeric as reasoning_tokens,

    ---------- US dollars
    (source.record ->> 'usage')::numeric as charged_usd,
    (source.record ->> 'byok_usage_inference')::numeric as byok_estimate_usd,

    ---------- the same numbers again, key by key
    source.record -> 'by_key' as by_key,

    ---------- dates
    slices.usage_date

from {{ source('openrouter', 'openrouter_activity') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
