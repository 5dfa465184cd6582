-- Cost, credits, and the amount where its SKU says what it counts. (Without `with`, like the model it reads.)
select
    ---------- ids
    costs.connection_id,
    costs.stream,
    costs.scope,
    costs.billing_account_id as account_id,
    coalesce(skus.raw_model_id, costs.sku_description) as raw_model_id,
    costs.project_id,
    null::text as credential_id,

    ---------- strings
    coalesce(costs.region, costs.location) as region,
    -- Corrections of earlier bills stand apart.
    costs.service_description || case when costs.cost_type = 'adjustment' then '/adjustment' else '' end as endpoint,
    costs.project_name,
    skus.service_tier,
    meter.meter,
    case when meter.meter in ('billed_cost', 'credits') then costs.currency end as currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    costs.usage_date

from {{ ref('stg_google_vertex_ai__costs') }} as costs
left join {{ ref('stg_google_vertex_ai__skus') }} as skus on costs.sku_description = skus.sku_description
inner join
    lateral (
        values
        ('billed_cost', costs.cost),
        ('credits', costs.credits),
        -- An adjustment may repeat the amount of what it corrects.
        (skus.meter, case when costs.cost_type = 'regular' then costs.usage_amount end)
    ) as meter (meter, quantity)
    on meter.meter is not null and meter.quantity is not null
-- Tax and rounding are on the bill, and no usage of a model.
where costs.cost_type in ('regular', 'adjustment')
