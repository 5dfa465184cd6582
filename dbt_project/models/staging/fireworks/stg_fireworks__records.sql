{#- The union stands inside, over bare tables, so that PostgreSQL can look up the changed loads in each of them. -#}
{%- set streams = ['usage', 'costs', 'throughput'] -%}
-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history. Usage is in camel case, throughput in snake case; costs have `dimensions` and
-- `subtotal` only.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    source.record ->> 'list' as list,
    coalesce(
        source.record ->> 'modelName',
        source.record -> 'group' ->> 'model_name',
        source.record ->> 'baseModel',
        source.record -> 'dimensions' ->> 'model',
        source.record ->> 'base_model'
    ) as model,
    coalesce(source.record ->> 'deploymentId', source.record ->> 'deployment_id') as deployment_id,
    source.record ->> 'jobId' as job_id,

    ---------- strings
    source.record ->> 'usageType' as usage_type,
    source.record ->> 'jobType' as job_type,
    source.record ->> 'acceleratorType' as accelerator_type,
    nullif(source.record ->> 'placement', 'REGION_UNSPECIFIED') as placement,
    source.record ->> 'category' as category,
    source.record ->> 'groupingValue' as grouping_value,
    source.record ->> 'secondaryGroupingValue' as secondary_grouping_value,
    source.record ->> 'series' as series,

    ---------- tokens
    (source.record ->> 'promptTokens')::numeric as prompt_tokens,
    (source.record ->> 'cachedPromptTokens')::numeric as cached_prompt_tokens,
    (source.record ->> 'completionTokens')::numeric as completion_tokens,
    (source.record ->> 'tokens')::numeric as training_tokens,
    line_items.uncached_tokens as line_items_uncached_tokens,
    line_items.cached_tokens as line_items_cached_tokens,

    ---------- other measures
    (source.record ->> 'audioInputSeconds')::numeric as audio_seconds,
    (source.record ->> 'acceleratorSeconds')::numeric as accelerator_seconds,
    (source.record ->> 'quantity')::numeric as quantity,

    ---------- money
    (coalesce(source.record -> 'subtotal', source.record -> 'totalCost') ->> 'units')::numeric
    + (coalesce(source.record -> 'subtotal', source.record -> 'totalCost') ->> 'nanos')::numeric * 0.000000001 as cost,
    coalesce(source.record -> 'subtotal', source.record -> 'totalCost') ->> 'currencyCode' as currency,

    ---------- how much of the day the readings speak for
    (source.record ->> 'readings')::numeric as readings,
    (source.record ->> 'sampled_seconds')::numeric as sampled_seconds,
    (source.record ->> 'longest_gap_seconds')::numeric as longest_gap_seconds,

    ---------- estimates of those seconds
    (source.record ->> 'prompt_tokens')::numeric as sampled_prompt_tokens,
    -- Both rates are rounded, so the part can come out a hair above the whole.
    least(
        (source.record ->> 'cached_prompt_tokens')::numeric, (source.record ->> 'prompt_tokens')::numeric
    ) as sampled_cached_prompt_tokens,
    (source.record ->> 'requests')::numeric as sampled_requests,
    (source.record ->> 'highest_prompt_rate')::numeric as highest_prompt_tokens_per_second,

    ---------- dates and timestamps
    slices.usage_date,
    (source.record ->> 'first_read_at')::timestamptz as first_read_at,
    (source.record ->> 'last_read_at')::timestamptz as last_read_at

from (
    {% for stream in streams -%}
        select
            load_id,
            record
        from {{ source('fireworks', 'fireworks_' ~ stream) }}
        {{ 'union all' if not loop.last }}
    {% endfor -%}
) as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
-- What the line items of the same day say of a model's input, where the metered row itself does not split it. They name
-- models as they are shown: `Kimi K2.6` for `accounts/fireworks/models/kimi-k2p6`.
left join
    lateral (
        select
            coalesce(
                sum((item.record ->> 'quantity')::numeric)
                filter (where item.record ->> 'category' ~* 'input.*\muncached'), 0
            ) as uncached_tokens,
            coalesce(
                sum((item.record ->> 'quantity')::numeric)
                filter (where item.record ->> 'category' ~* 'input.*\mcached'), 0
            ) as cached_tokens
        from {{ source('fireworks', 'fireworks_usage') }} as item
        where
            item.load_id = source.load_id
            and item.record ->> 'list' = 'serverlessLineItems'
            and {{ fireworks_name("item.record ->> 'groupingValue'") }}
            = {{ fireworks_name(
                "coalesce(source.record ->> 'modelName', source.record -> 'group' ->> 'model_name')"
            ) }}
        -- Here, not in the join, so that PostgreSQL looks nothing up for any other record.
        having source.record ->> 'list' = 'serverlessCosts' and not jsonb_exists(source.record, 'cachedPromptTokens')
    ) as line_items
    on true
