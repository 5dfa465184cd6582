-- Without `with`, as stg_anthropic__usage.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    -- A line that belongs to no model stands under its own words.
    coalesce(
        nullif(source.record ->> 'model', ''),
        nullif(source.record ->> 'description', ''),
        nullif(source.record ->> 'cost_type', ''),
        'no model'
    ) as raw_model_id,
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
    source.record ->> 'description' as description,
    source.record ->> 'cost_type' as cost_type,
    source.record ->> 'token_type' as token_type,
    source.record ->> 'service_tier' as service_tier,
    source.record ->> 'context_window' as context_window,
    nullif(source.record ->> 'inference_geo', 'not_available') as region,
    upper(source.record ->> 'currency') as currency,

    ---------- numerics
    -- Cents become dollars by a product, which is exact; a quotient is rounded.
    (source.record ->> 'amount')::numeric * 0.01 as billed_cost,

    ---------- dates
    slices.usage_date

from {{ source('anthropic', 'anthropic_costs') }} as source
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
