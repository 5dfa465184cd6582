-- Usage and cost side by side: nothing tells which line of usage a line of cost is for. (Without `with`, like the
-- models it reads.)
select
    ---------- ids
    usage.connection_id,
    usage.stream,
    usage.scope,
    null::text as account_id,
    usage.raw_model_id,
    usage.workspace_id as project_id,
    usage.api_key_id as credential_id,

    ---------- strings
    usage.region,
    null::text as endpoint,
    usage.workspace_name as project_name,
    usage.service_tier,
    meter.meter,
    null::text as currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    usage.usage_date

from {{ ref('stg_anthropic__usage') }} as usage
inner join
    lateral (
        values
        ('requests', usage.requests),
        ('uncached_input_tokens', usage.uncached_input_tokens),
        ('cache_read_tokens', usage.cache_read_tokens),
        ('cache_write_5m_tokens', usage.cache_write_5m_tokens),
        ('cache_write_1h_tokens', usage.cache_write_1h_tokens),
        ('output_tokens', usage.output_tokens),
        ('server_tool_requests', usage.web_searches + coalesce(usage.code_executions, 0))
    ) as meter (meter, quantity)
    -- The classic report does not count requests, so that they are no row.
    on meter.quantity is not null

union all

select
    ---------- ids
    costs.connection_id,
    costs.stream,
    costs.scope,
    null::text as account_id,
    costs.raw_model_id,
    costs.workspace_id as project_id,
    costs.api_key_id as credential_id,

    ---------- strings
    costs.region,
    null::text as endpoint,
    costs.workspace_name as project_name,
    costs.service_tier,
    'billed_cost' as meter,
    costs.currency,

    ---------- numerics
    costs.billed_cost as quantity,

    ---------- dates
    costs.usage_date

from {{ ref('stg_anthropic__costs') }} as costs
