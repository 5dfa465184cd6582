-- Counts are rounded here, once each day's rates are added up. (Without `with`, like the model it reads.)
select
    ---------- ids
    usage.connection_id,
    usage.stream,
    usage.scope,
    null::text as account_id,
    usage.raw_model_id,
    usage.project_id,
    null::text as credential_id,

    ---------- strings
    null::text as region,
    null::text as endpoint,
    null::text as project_name,
    null::text as service_tier,
    meter.meter,
    null::text as currency,

    ---------- numerics
    round(meter.quantity) as quantity,

    ---------- dates
    usage.usage_date

from {{ ref('stg_groq__usage') }} as usage
cross join
    lateral (
        values
        ('requests', usage.answered_requests),
        ('throttled_requests', usage.throttled_requests),
        ('client_errors', usage.client_errors),
        ('server_errors', usage.server_errors),
        -- Cached input is in it, and Groq does not tell it apart.
        ('unsplit_input_tokens', usage.input_tokens),
        ('output_tokens', usage.output_tokens)
    ) as meter (meter, quantity)
where meter.quantity is not null
