-- Usage and cost side by side: nothing tells which line of usage a line of cost is for. (Without `with`, like the model
-- it reads.)
select
    ---------- ids
    records.connection_id,
    records.stream,
    records.scope,
    null::text as account_id,
    records.raw_model_id,
    records.workspace_id as project_id,
    records.api_key_id as credential_id,

    ---------- strings
    records.region,
    null::text as endpoint,
    records.workspace_name as project_name,
    records.service_tier,
    meter.meter,
    case when meter.meter = 'billed_cost' then records.currency end as currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    records.usage_date

from {{ ref('stg_anthropic__records') }} as records
inner join
    lateral (
        values
        ('usage', 'requests', records.requests),
        ('usage', 'uncached_input_tokens', records.uncached_input_tokens),
        ('usage', 'cache_read_tokens', records.cache_read_tokens),
        -- Where nothing was written to a cache, or no tool used, Anthropic may leave the whole group out.
        ('usage', 'cache_write_5m_tokens', coalesce(records.cache_write_5m_tokens, 0)),
        ('usage', 'cache_write_1h_tokens', coalesce(records.cache_write_1h_tokens, 0)),
        ('usage', 'output_tokens', records.output_tokens),
        (
            'usage',
            'server_tool_requests',
            coalesce(records.web_searches, 0) + coalesce(records.code_executions, 0)
        ),
        ('costs', 'billed_cost', records.billed_cost)
    ) as meter (stream, meter, quantity)
    on
        records.stream = meter.stream
        -- The classic report does not count requests, so that they are no row. A line of cost always has an amount.
        and (meter.quantity is not null or meter.stream = 'costs')
