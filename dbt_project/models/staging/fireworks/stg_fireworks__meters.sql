-- What is metered, what it costs and what readings of the gauges make of it are rows of their own, by their endpoint.
-- (Without `with`, like the model it reads.)
select
    ---------- ids
    records.connection_id,
    records.stream,
    records.scope,
    null::text as account_id,
    -- Line items name no model, but what is shown on the bill.
    coalesce(
        case
            when records.list = 'lineItems' then coalesce(records.grouping_value, records.category) else records.model
        end,
        'no model'
    ) as raw_model_id,
    null::text as project_id,
    null::text as credential_id,

    ---------- strings
    records.placement as region,
    case coalesce(records.list, records.stream)
        when 'serverlessCosts' then concat_ws('/', 'serverless', records.usage_type)
        when 'dedicatedCosts' then concat_ws('/', 'deployment', records.deployment_id, records.accelerator_type)
        when 'trainingCosts' then concat_ws('/', 'training', records.job_type, records.accelerator_type)
        when 'lineItems' then concat_ws('/', 'line items', records.category)
        when 'throughput' then concat_ws('/', 'gauges', records.deployment_id)
        else records.stream
    end as endpoint,
    null::text as project_name,
    null::text as service_tier,
    meter.meter,
    case when meter.meter = 'billed_cost' then records.currency end as currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    records.usage_date

from {{ ref('stg_fireworks__records') }} as records
cross join
    lateral (
        values
        (
            case
                when records.cached_prompt_tokens is not null then records.cached_prompt_tokens
                -- Names that look alike are only believed where the numbers agree to the token.
                when
                    records.line_items_uncached_tokens + records.line_items_cached_tokens = records.prompt_tokens
                    then records.line_items_cached_tokens
            end
        )
    ) as input (cached_tokens)
inner join
    lateral (
        values
        ('usage', 'serverlessCosts', 'uncached_input_tokens', records.prompt_tokens - input.cached_tokens),
        ('usage', 'serverlessCosts', 'cache_read_tokens', input.cached_tokens),
        (
            'usage',
            'serverlessCosts',
            'unsplit_input_tokens',
            case when input.cached_tokens is null then records.prompt_tokens end
        ),
        ('usage', 'serverlessCosts', 'output_tokens', records.completion_tokens),
        ('usage', 'serverlessCosts', 'audio_seconds', records.audio_seconds),
        ('usage', 'dedicatedCosts', 'compute_seconds', records.accelerator_seconds),
        -- A job that is paid by the token holds no accelerator of its own.
        ('usage', 'trainingCosts', 'compute_seconds', coalesce(records.accelerator_seconds, 0)),
        ('usage', 'lineItems', 'billed_cost', records.cost),
        ('costs', null, 'billed_cost', records.cost),
        ('throughput', null, 'sampled_seconds', records.sampled_seconds),
        ('throughput', null, 'sampled_requests', records.sampled_requests),
        (
            'throughput',
            null,
            'sampled_uncached_input_tokens',
            records.sampled_prompt_tokens - records.sampled_cached_prompt_tokens
        ),
        ('throughput', null, 'sampled_cache_read_tokens', records.sampled_cached_prompt_tokens)
    ) as meter (stream, list, meter, quantity)
    on
        records.stream = meter.stream
        and records.list is not distinct from meter.list
        -- A metered row has some of its measures. Costs and gauges always have theirs.
        and (meter.quantity is not null or meter.stream <> 'usage')
