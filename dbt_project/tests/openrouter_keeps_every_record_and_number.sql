-- Reads the raw records by its own way, not through the staging models it checks: every record that the ledger counts
-- is there, and every number in it arrives in the meters, once. No day is told by both reports.
with

slices as (
    select * from {{ tested_rows(ref('stg_ops__slices')) }} as tested
    where provider = 'openrouter' and {{ is_usage() }} and load_id is not null
),

records as (
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openrouter', 'openrouter_activity') }} as source on slices.load_id = source.load_id
    where slices.stream = 'activity'
    union all
    select
        slices.connection_id,
        slices.usage_date,
        slices.load_id,
        slices.stream,
        source.record
    from slices
    inner join {{ source('openrouter', 'openrouter_history') }} as source on slices.load_id = source.load_id
    where slices.stream = 'history'
),

names (field, measure) as (
    values
    ('requests', 'requests'),
    ('request_count', 'requests'),
    ('prompt_tokens', 'input_tokens'),
    ('tokens_prompt', 'input_tokens'),
    ('completion_tokens', 'output_tokens'),
    ('tokens_completion', 'output_tokens'),
    ('usage', 'billed_cost'),
    ('credits_usage', 'billed_cost')
),

raw_sums as (
    select
        records.connection_id,
        records.usage_date,
        names.measure,
        sum((records.record ->> names.field)::numeric) as quantity
    from records
    inner join names on jsonb_exists(records.record, names.field)
    group by records.connection_id, records.usage_date, names.measure
),

meter_sums as (
    select
        connection_id,
        usage_date,
        case
            when meter in ('uncached_input_tokens', 'cache_read_tokens', 'unsplit_input_tokens') then 'input_tokens'
            else meter
        end as measure,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    where provider = 'openrouter'
    group by connection_id, usage_date, measure
)

{{ differences_from_raw(absent_is_zero=false) }}

union all

select
    connection_id,
    usage_date,
    'reports that tell the same day' as what,
    1 as expected,
    count(distinct stream) as found
from records
group by connection_id, usage_date
having count(distinct stream) > 1
