{#- The union stands inside, over bare tables, so that PostgreSQL can look up the changed loads in each of them. -#}
{%- set streams = ['activity', 'history'] -%}
-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history. Where two names stand side by side, the first is activity's, the second
-- history's.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    -- Activity names the model with its date, and apart from that as it was asked for; history knows one name only.
    case
        when slices.stream = 'history' then source.record ->> 'model' else source.record ->> 'model_permaslug'
    end as raw_model_id,
    case when slices.stream = 'activity' then source.record ->> 'model' end as model_slug,
    nullif(source.record ->> 'endpoint_id', '') as endpoint_id,
    nullif(source.record ->> 'workspace_id', '') as workspace_id,

    ---------- strings
    nullif(source.record ->> 'provider_name', '') as upstream_provider,
    nullif(coalesce(source.record ->> 'workspace_name', source.record ->> 'workspace'), '') as workspace_name,

    ---------- numerics
    coalesce(source.record ->> 'requests', source.record ->> 'request_count')::numeric as requests,
    coalesce(source.record ->> 'byok_requests', source.record ->> 'byok_request_count')::numeric as byok_requests,
    coalesce(source.record ->> 'prompt_tokens', source.record ->> 'tokens_prompt')::numeric as prompt_tokens,
    (source.record ->> 'cached_tokens')::numeric as cached_tokens,
    coalesce(source.record ->> 'completion_tokens', source.record ->> 'tokens_completion')::numeric
        as completion_tokens,
    (source.record ->> 'reasoning_tokens')::numeric as reasoning_tokens,

    ---------- US dollars
    coalesce(source.record ->> 'usage', source.record ->> 'credits_usage')::numeric as charged_usd,
    coalesce(source.record ->> 'byok_usage_inference', source.record ->> 'byok_usage')::numeric as byok_estimate_usd,

    ---------- the same numbers again, key by key
    source.record -> 'by_key' as by_key,

    ---------- dates
    slices.usage_date

from (
    {% for stream in streams -%}
        select
            load_id,
            record
        from {{ source('openrouter', 'openrouter_' ~ stream) }}
        {{ 'union all' if not loop.last }}
    {% endfor -%}
) as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
