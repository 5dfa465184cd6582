{#- The union stands inside, over bare tables, so that PostgreSQL can look up the changed loads in each of them. -#}
{%- set streams = ['usage', 'costs'] -%}
-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    -- A line of cost that belongs to no model stands under its own words; usage has none.
    coalesce(
        nullif(source.record ->> 'model', ''),
        nullif(source.record ->> 'description', ''),
        nullif(source.record ->> 'cost_type', ''),
        'no model'
    ) as raw_model_id,
    -- The classic reports call the default workspace null, the analytics ones by its id.
    coalesce(
        source.record ->> 'workspace_id', case when source.record ->> 'report' = 'classic' then 'default' end
    ) as workspace_id,
    source.record ->> 'api_key_id' as api_key_id,

    ---------- strings
    source.record ->> 'report' as report,
    case
        when source.record ->> 'report' = 'classic' and source.record ->> 'workspace_id' is null
            then 'Default workspace'
        else source.record ->> 'workspace_name'
    end as workspace_name,
    source.record ->> 'service_tier' as service_tier,
    source.record ->> 'context_window' as context_window,
    nullif(source.record ->> 'inference_geo', 'not_available') as region,

    ---------- tokens
    (source.record ->> 'uncached_input_tokens')::numeric as uncached_input_tokens,
    (source.record ->> 'cache_read_input_tokens')::numeric as cache_read_tokens,
    (source.record -> 'cache_creation' ->> 'ephemeral_5m_input_tokens')::numeric as cache_write_5m_tokens,
    (source.record -> 'cache_creation' ->> 'ephemeral_1h_input_tokens')::numeric as cache_write_1h_tokens,
    (source.record ->> 'output_tokens')::numeric as output_tokens,

    ---------- other counts
    (source.record -> 'server_tool_use' ->> 'web_search_requests')::numeric as web_searches,
    -- What is executed without a model is code.
    case when source.record ->> 'model' is not null then (source.record ->> 'requests')::numeric end as requests,
    case when source.record ->> 'model' is null then (source.record ->> 'requests')::numeric end as code_executions,

    ---------- the bill
    source.record ->> 'description' as description,
    source.record ->> 'cost_type' as cost_type,
    source.record ->> 'token_type' as token_type,
    -- Cents become dollars by a product, which is exact; a quotient is rounded.
    (source.record ->> 'amount')::numeric * 0.01 as billed_cost,
    upper(source.record ->> 'currency') as currency,

    ---------- dates
    slices.usage_date

from (
    {% for stream in streams -%}
        select
            load_id,
            record
        from {{ source('anthropic', 'anthropic_' ~ stream) }}
        {{ 'union all' if not loop.last }}
    {% endfor -%}
) as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
