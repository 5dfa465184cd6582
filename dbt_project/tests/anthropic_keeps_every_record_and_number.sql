-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once.

with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'anthropic' and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        source.record
    from slices
    inner join {{ source('anthropic', 'anthropic_usage') }} as source on slices.load_id = source.load_id
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        source.record
    from slices
    inner join {{ source('anthropic', 'anthropic_costs') }} as source on slices.load_id = source.load_id
),

names (path, meter) as (
    values
    ('{uncached_input_tokens}', 'uncached_input_tokens'),
    ('{cache_read_input_tokens}', 'cache_read_tokens'),
    ('{cache_creation,ephemeral_5m_input_tokens}', 'cache_write_5m_tokens'),
    ('{cache_creation,ephemeral_1h_input_tokens}', 'cache_write_1h_tokens'),
    ('{output_tokens}', 'output_tokens'),
    ('{server_tool_use,web_search_requests}', 'server_tool_requests'),
    ('{requests}', 'requests'),
    ('{amount}', 'billed_cost')
),

raw_numbers as (
    select
        records.connection_id,
        records.usage_date,
        case
            -- Requests without a model are executions of code.
            when names.meter = 'requests' and records.record ->> 'model' is null then 'server_tool_requests'
            else names.meter
        end as meter,
        (records.record #>> names.path::text[])::numeric
        * case when names.meter = 'billed_cost' then 0.01 else 1 end as quantity
    from records
    cross join names
),

raw_sums as (
    select
        connection_id,
        usage_date,
        meter,
        sum(quantity) as quantity
    from raw_numbers
    group by connection_id, usage_date, meter
),

meter_sums as (
    select
        connection_id,
        usage_date,
        meter,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'anthropic'
    group by connection_id, usage_date, meter
)

{{ differences_from_raw(what='meter') }}
