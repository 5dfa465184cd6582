-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    source.record ->> 'billing_account_id' as billing_account_id,
    source.record ->> 'project_id' as project_id,
    source.record ->> 'service_id' as service_id,
    source.record ->> 'sku_id' as sku_id,
    source.record ->> 'resource_name' as resource_name,

    ---------- strings
    source.record ->> 'project_name' as project_name,
    source.record ->> 'service_description' as service_description,
    source.record ->> 'sku_description' as sku_description,
    source.record ->> 'location' as location,
    source.record ->> 'region' as region,
    source.record ->> 'usage_unit' as usage_unit,
    source.record ->> 'pricing_unit' as pricing_unit,
    source.record ->> 'currency' as currency,
    coalesce(source.record ->> 'cost_type', 'regular') as cost_type,
    source.record ->> 'invoice_month' as invoice_month,
    source.record ->> 'transaction_type' as transaction_type,
    source.record ->> 'adjustment_type' as adjustment_type,

    ---------- numerics
    (source.record ->> 'usage_amount')::numeric as usage_amount,
    (source.record ->> 'usage_amount_in_pricing_units')::numeric as usage_amount_in_pricing_units,
    (source.record ->> 'cost')::numeric as cost,
    (source.record ->> 'cost_at_list')::numeric as cost_at_list,
    (source.record ->> 'credits')::numeric as credits,
    (source.record ->> 'cost')::numeric + (source.record ->> 'credits')::numeric as net_cost,
    source.record -> 'credits_by_type' as credits_by_type,
    (source.record ->> 'row_count')::numeric as export_rows,

    ---------- dates and timestamps
    slices.usage_date,
    (source.record ->> 'exported_at')::timestamptz as exported_at

from {{ source('google_vertex_ai', 'google_vertex_ai_costs') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
