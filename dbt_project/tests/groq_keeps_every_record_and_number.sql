-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'groq' and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        source.record
    from slices
    inner join {{ source('groq', 'groq_usage') }} as source on slices.load_id = source.load_id
),

raw_numbers as (
    select
        records.connection_id,
        records.usage_date,
        found.measure,
        (found.numbers ->> 'rate_sum')::numeric as rate_sum
    from records
    cross join
        lateral (
            values
            ('tokens_in', records.record -> 'tokens_in'),
            ('tokens_out', records.record -> 'tokens_out')
        ) as found (measure, numbers)
    where found.numbers is not null
    union all
    select
        records.connection_id,
        records.usage_date,
        'requests of every kind' as measure,
        (found.numbers ->> 'rate_sum')::numeric as rate_sum
    from records
    cross join jsonb_path_query(records.record, '$.requests[*]') as found (numbers)
),

raw_sums as (
    select
        connection_id,
        usage_date,
        measure,
        sum(rate_sum) * 300 as quantity,
        count(*) as parts
    from raw_numbers
    group by connection_id, usage_date, measure
),

meter_sums as (
    select
        connection_id,
        usage_date,
        case meter
            when 'unsplit_input_tokens' then 'tokens_in'
            when 'output_tokens' then 'tokens_out'
            else 'requests of every kind'
        end as measure,
        sum(quantity) as quantity,
        bool_and(quantity = trunc(quantity)) as is_whole
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'groq'
    group by connection_id, usage_date, measure
)

select
    connection_id,
    usage_date,
    measure as what,
    raw_sums.quantity as expected,
    meter_sums.quantity as found
from raw_sums
full join meter_sums using (connection_id, usage_date, measure)
-- Each count is rounded by half a unit at most; where rates come from whole counts, by next to nothing.
where
    (abs(raw_sums.quantity - meter_sums.quantity) <= 0.5 * raw_sums.parts and meter_sums.is_whole) is not true

union all

{{ records_amiss() }}
