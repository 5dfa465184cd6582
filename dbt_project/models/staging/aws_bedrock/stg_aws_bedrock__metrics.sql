-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    nullif(source.record ->> 'account_id', '') as account_id,
    coalesce(nullif(source.record ->> 'model_id', ''), 'unspecified') as raw_model_id,

    ---------- strings
    nullif(source.record ->> 'region', '') as region,
    source.record ->> 'namespace' as namespace,

    ---------- AWS/Bedrock
    (source.record -> 'metrics' ->> 'Invocations')::numeric as invocations,
    (source.record -> 'metrics' ->> 'InputTokenCount')::numeric as input_tokens,
    -- CloudWatch has two spellings of the cache metrics, and may give one number under both.
    coalesce(
        source.record -> 'metrics' ->> 'CacheReadInputTokenCount',
        source.record -> 'metrics' ->> 'CacheReadInputTokens'
    )::numeric as cache_read_tokens,
    coalesce(
        source.record -> 'metrics' ->> 'CacheWriteInputTokenCount',
        source.record -> 'metrics' ->> 'CacheWriteInputTokens'
    )::numeric as cache_write_tokens,
    (source.record -> 'metrics' ->> 'OutputTokenCount')::numeric as output_tokens,
    (source.record -> 'metrics' ->> 'OutputImageCount')::numeric as output_images,
    (source.record -> 'metrics' ->> 'InvocationClientErrors')::numeric as client_errors,
    (source.record -> 'metrics' ->> 'InvocationServerErrors')::numeric as server_errors,
    (source.record -> 'metrics' ->> 'InvocationThrottles')::numeric as throttles,

    ---------- AWS/BedrockMantle
    (source.record -> 'metrics' ->> 'Inferences')::numeric as inferences,
    (source.record -> 'metrics' ->> 'TotalInputTokens')::numeric as total_input_tokens,
    (source.record -> 'metrics' ->> 'TotalOutputTokens')::numeric as total_output_tokens,
    (source.record -> 'metrics' ->> 'InferenceClientErrors')::numeric as inference_client_errors,

    ---------- dates
    slices.usage_date

from {{ source('aws_bedrock', 'aws_bedrock_metrics') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
