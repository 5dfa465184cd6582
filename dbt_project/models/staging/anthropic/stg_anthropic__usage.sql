-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    coalesce(nullif(source.record ->> 'model', ''), 'no model') as raw_model_id,
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

    ---------- numerics
    (source.record ->> 'uncached_input_tokens')::numeric as uncached_input_tokens,
    (source.record ->> 'cache_read_input_tokens')::numeric as cache_read_tokens,
    coalesce((source.record -> 'cache_creation' ->> 'ephemeral_5m_input_tokens')::numeric, 0) as cache_write_5m_tokens,
    coalesce((source.record -> 'cache_creation' ->> 'ephemeral_1h_input_tokens')::numeric, 0) as cache_write_1h_tokens,
    (source.record ->> 'output_tokens')::numeric as output_tokens,
    coalesce((source.record -> 'server_tool_use' ->> 'web_search_requests')::numeric, 0) as web_searches,
    -- What is executed without a model is code.
    case when source.record ->> 'model' is not null then (source.record ->> 'requests')::numeric end as requests,
    case when source.record ->> 'model' is null then (source.record ->> 'requests')::numeric end as code_executions,

    ---------- dates
    slices.usage_date

from {{ source('anthropic', 'anthropic_usage') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
