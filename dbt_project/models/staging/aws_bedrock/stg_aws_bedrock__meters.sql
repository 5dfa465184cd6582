-- A model that has a record was asked for every metric of its namespace, so a metric without a point is a zero; one of
-- the other namespace was never on offer, so it is no row at all. (Without `with`, like the model it reads.)
select
    ---------- ids
    metrics.connection_id,
    metrics.stream,
    metrics.scope,
    metrics.account_id,
    metrics.raw_model_id,
    null::text as project_id,
    null::text as credential_id,

    ---------- strings
    metrics.region,
    metrics.namespace as endpoint,
    null::text as project_name,
    null::text as service_tier,
    meter.meter,
    null::text as currency,

    ---------- numerics
    coalesce(meter.quantity, 0) as quantity,

    ---------- dates
    metrics.usage_date

from {{ ref('stg_aws_bedrock__metrics') }} as metrics
inner join
    lateral (
        values
        ('AWS/Bedrock', 'requests', metrics.invocations),
        ('AWS/Bedrock', 'uncached_input_tokens', metrics.input_tokens),
        ('AWS/Bedrock', 'cache_read_tokens', metrics.cache_read_tokens),
        ('AWS/Bedrock', 'cache_write_tokens', metrics.cache_write_tokens),
        ('AWS/Bedrock', 'output_tokens', metrics.output_tokens),
        ('AWS/Bedrock', 'output_images', metrics.output_images),
        ('AWS/Bedrock', 'client_errors', metrics.client_errors),
        ('AWS/Bedrock', 'server_errors', metrics.server_errors),
        ('AWS/Bedrock', 'throttled_requests', metrics.throttles),
        ('AWS/BedrockMantle', 'requests', metrics.inferences),
        ('AWS/BedrockMantle', 'unsplit_input_tokens', metrics.total_input_tokens),
        ('AWS/BedrockMantle', 'output_tokens', metrics.total_output_tokens),
        ('AWS/BedrockMantle', 'client_errors', metrics.inference_client_errors)
    ) as meter (namespace, meter, quantity)
    on metrics.namespace = meter.namespace
