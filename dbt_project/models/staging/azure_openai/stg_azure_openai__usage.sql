-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history. For the same reason everything is worked out record by record.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    source.record ->> 'subscription_id' as subscription_id,
    lower(source.record ->> 'resource_id') as resource_id,

    ---------- strings
    source.record ->> 'resource_name' as resource_name,
    nullif(source.record ->> 'deployment', '__Empty') as deployment,
    usage.model_name,
    usage.model_version,
    -- A version that is a date or has letters is a part of the model's name at its developer; a mere number is not.
    case
        when usage.model_name is null then 'unspecified'
        when usage.model_version is null then usage.model_name
        when usage.model_version ~ '^[0-9]{1,3}([.][0-9]+)*$'
            then usage.model_name || ':' || replace(usage.model_version, '.', ':')
        else usage.model_name || '-' || usage.model_version
    end as raw_model_id,
    lower(replace(usage.region, ' ', '')) as region,
    source.record -> 'deployed' ->> 'sku' as sku,

    ---------- tokens
    usage.input_tokens,
    usage.output_tokens,
    usage.total_tokens,
    usage.cache_read_tokens,
    usage.cache_write_5m_tokens,
    usage.cache_write_1h_tokens,

    ---------- other counts
    usage.output_images,
    usage.successful_requests,
    usage.client_errors,
    usage.throttled_requests,
    usage.server_errors,

    ---------- booleans
    usage.cache_stands_apart,

    ---------- dates
    slices.usage_date

from {{ source('azure_openai', 'azure_openai_metrics') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
-- Two families of metrics count the same: of each count, the new one if this deployment has it, else the classic one.
cross join
    lateral (
        select
            case
                when bool_or(named.metric = 'InputTokens') then 'InputTokens' else 'ProcessedPromptTokens'
            end as input,
            case when bool_or(named.metric = 'OutputTokens') then 'OutputTokens' else 'GeneratedTokens' end as output,
            case when bool_or(named.metric = 'TotalTokens') then 'TotalTokens' else 'TokenTransaction' end as total,
            case
                when bool_or(named.metric = 'ModelRequests') then 'ModelRequests' else 'AzureOpenAIRequests'
            end as requests,
            case when count(distinct named.model_name) = 1 then min(named.model_name) end as only_model
        from jsonb_to_recordset(source.record -> 'series') as named (metric text, model_name text)
    ) as counted
cross join
    lateral (
        select
            series.model_name,
            series.model_version,
            series.region,
            sum(series.total) filter (where series.metric = counted.input) as input_tokens,
            sum(series.total) filter (where series.metric = counted.output) as output_tokens,
            sum(series.total) filter (where series.metric = counted.total) as total_tokens,
            sum(series.total) filter (where series.metric = 'cacheReadInputTokens') as cache_read_tokens,
            sum(series.total) filter (where series.metric = 'ephemeral5mInputTokens') as cache_write_5m_tokens,
            sum(series.total) filter (where series.metric = 'ephemeral1hInputTokens') as cache_write_1h_tokens,
            sum(series.total) filter (where series.metric = 'GeneratedImages') as output_images,
            sum(series.total) filter (
                where series.metric = counted.requests and series.status !~ '^[45]'
            ) as successful_requests,
            sum(series.total) filter (
                where series.metric = counted.requests and series.status ~ '^4' and series.status <> '429'
            ) as client_errors,
            sum(series.total) filter (
                where series.metric = counted.requests and series.status = '429'
            ) as throttled_requests,
            sum(series.total) filter (
                where series.metric = counted.requests and series.status ~ '^5'
            ) as server_errors,
            -- Claude's input does not include what came from or went into the cache; that of others does.
            bool_or(series.is_claude) as cache_stands_apart
        from (
            select
                told.metric,
                told.region,
                told.total,
                coalesce(told.status, '') as status,
                -- The classic token metrics name no model. Its requests do; so does the list of deployments.
                coalesce(
                    told.model_name, counted.only_model, source.record -> 'deployed' ->> 'model'
                ) as model_name,
                coalesce(
                    told.model_version,
                    case
                        when
                            coalesce(told.model_name, counted.only_model, source.record -> 'deployed' ->> 'model')
                            = source.record -> 'deployed' ->> 'model'
                            then source.record -> 'deployed' ->> 'version'
                    end
                ) as model_version,
                coalesce(told.model_name, counted.only_model, source.record -> 'deployed' ->> 'model') ~* '^claude'
                or told.metric in (
                    'cacheReadInputTokens', 'ephemeral5mInputTokens', 'ephemeral1hInputTokens'
                ) as is_claude
            from
                jsonb_to_recordset(source.record -> 'series')
                    as told (metric text, model_name text, model_version text, region text, status text, total numeric)
            -- What the other family counts is the same once more.
            where
                told.metric in (
                    counted.input, counted.output, counted.total, counted.requests,
                    'cacheReadInputTokens', 'ephemeral5mInputTokens', 'ephemeral1hInputTokens', 'GeneratedImages'
                )
        ) as series
        group by series.model_name, series.model_version, series.region
    ) as usage
