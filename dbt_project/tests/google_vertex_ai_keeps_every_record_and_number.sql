-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, every cost and credit in it arrives in the meters, and so does every amount of a SKU that is mapped.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'google_vertex_ai' and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        source.record
    from slices
    inner join {{ source('google_vertex_ai', 'google_vertex_ai_costs') }} as source on slices.load_id = source.load_id
),

billed as (
    select
        connection_id,
        usage_date,
        record ->> 'currency' as currency,
        (record ->> 'cost')::numeric as cost,
        (record ->> 'credits')::numeric as credits
    from records
    where coalesce(record ->> 'cost_type', '') not in ('tax', 'rounding_error')
),

counted as (
    select
        records.connection_id,
        records.usage_date,
        (records.record ->> 'usage_amount')::numeric as amount
    from records
    inner join {{ ref('stg_google_vertex_ai__skus') }} as skus
        on records.record ->> 'sku_description' = skus.sku_description
    where skus.is_mapped and skus.meter is not null and coalesce(records.record ->> 'cost_type', 'regular') = 'regular'
),

raw_numbers as (
    select
        connection_id,
        usage_date,
        'billed_cost ' || currency as measure,
        cost as quantity
    from billed
    union all
    select
        connection_id,
        usage_date,
        'credits ' || currency as measure,
        credits as quantity
    from billed
    union all
    select
        connection_id,
        usage_date,
        'amounts' as measure,
        amount as quantity
    from counted
),

raw_sums as (
    select
        connection_id,
        usage_date,
        measure,
        sum(quantity) as quantity
    from raw_numbers
    group by connection_id, usage_date, measure
),

meter_sums as (
    select
        connection_id,
        usage_date,
        coalesce(meter || ' ' || currency, 'amounts') as measure,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'google_vertex_ai'
    group by connection_id, usage_date, coalesce(meter || ' ' || currency, 'amounts')
)

{{ differences_from_raw() }}
