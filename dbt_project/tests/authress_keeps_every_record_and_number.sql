-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every call in it arrives in the meters, once, under its resource and operation. No resource was taken
-- for a model.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'authress' and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        source.record
    from slices
    inner join {{ source('authress', 'authress_operations') }} as source on slices.load_id = source.load_id
),

raw_sums as (
    select
        connection_id,
        usage_date,
        record ->> 'resource' as resource,
        record ->> 'operation' as operation,
        sum((record ->> 'count')::numeric) as calls
    from records
    group by connection_id, usage_date, resource, operation
),

meter_sums as (
    select
        connection_id,
        usage_date,
        raw_model_id as resource,
        endpoint as operation,
        sum(quantity) filter (where meter = 'api_calls') as calls
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'authress'
    group by connection_id, usage_date, resource, operation
)

select
    connection_id,
    usage_date,
    concat(operation, ' at ', resource) as what,
    raw_sums.calls as expected,
    meter_sums.calls as found
from raw_sums
full join meter_sums using (connection_id, usage_date, resource, operation)
where raw_sums.calls is distinct from meter_sums.calls

union all

{{ records_amiss() }}

union all

select
    connection_id,
    usage_date,
    'taken for a model: ' || raw_model_id as what,
    0 as expected,
    count(*) as found
from {{ tested_rows(ref('usage_daily_detail')) }} as tested
where provider = 'authress' and model <> raw_model_id
group by connection_id, usage_date, what
