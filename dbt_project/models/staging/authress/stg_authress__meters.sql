-- A resource stands in the place of the model, an operation in that of the endpoint. What was allowed and what was
-- denied are rows of their own here, and calls all the same.
select
    ---------- ids
    connection_id,
    stream,
    scope,
    null::text as account_id,
    resource as raw_model_id,
    null::text as project_id,
    null::text as credential_id,

    ---------- strings
    null::text as region,
    operation as endpoint,
    null::text as project_name,
    null::text as service_tier,
    'api_calls' as meter,
    null::text as currency,

    ---------- numerics
    calls as quantity,

    ---------- dates
    usage_date

from {{ ref('stg_authress__operations') }}
