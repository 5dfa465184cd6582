-- Whoever counts requests was asked for every status, and whoever counts tokens for both directions: of these, what has
-- no number is a zero. (Without `with`, like the model it reads.)
select
    ---------- ids
    usage.connection_id,
    usage.stream,
    usage.scope,
    usage.subscription_id as account_id,
    usage.raw_model_id,
    usage.resource_id as project_id,
    null::text as credential_id,

    ---------- strings
    usage.region,
    usage.deployment as endpoint,
    usage.resource_name as project_name,
    usage.sku as service_tier,
    meter.meter,
    null::text as currency,

    ---------- numerics
    coalesce(meter.quantity, 0) as quantity,

    ---------- dates
    usage.usage_date

from {{ ref('stg_azure_openai__usage') }} as usage
inner join
    lateral (
        values
        ('requests', 'requests', usage.successful_requests),
        ('requests', 'client_errors', usage.client_errors),
        ('requests', 'throttled_requests', usage.throttled_requests),
        ('requests', 'server_errors', usage.server_errors),
        (
            'tokens',
            case when usage.cache_stands_apart then 'uncached_input_tokens' else 'unsplit_input_tokens' end,
            usage.input_tokens
        ),
        ('tokens', 'output_tokens', usage.output_tokens),
        ('cache', 'cache_read_tokens', usage.cache_read_tokens),
        ('cache', 'cache_write_5m_tokens', usage.cache_write_5m_tokens),
        ('cache', 'cache_write_1h_tokens', usage.cache_write_1h_tokens),
        ('images', 'output_images', usage.output_images)
    ) as meter (kind, meter, quantity)
    on case meter.kind
        when 'requests'
            then
                coalesce(
                    usage.successful_requests, usage.client_errors, usage.throttled_requests, usage.server_errors
                ) is not null
        when 'cache'
            then
                coalesce(usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens)
                is not null
        when 'tokens'
            then
                coalesce(
                    usage.input_tokens,
                    usage.output_tokens,
                    usage.cache_read_tokens,
                    usage.cache_write_5m_tokens,
                    usage.cache_write_1h_tokens
                ) is not null
        else meter.quantity is not null
    end
