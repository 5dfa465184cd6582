-- Per provider and day: what the meters of the counted slices hold, the two tables of usage hold too.
-- Money is compared by currency. The measures are written out here, apart from the macros that make the tables.
{%- set shared = [
    'requests', 'uncached_input_tokens', 'cache_read_tokens', 'output_tokens', 'output_images', 'audio_seconds',
    'characters', 'server_tool_requests', 'stored_bytes', 'compute_seconds', 'api_calls', 'billed_cost', 'credits',
] %}

with

slices as (
    select * from {{ tested_rows(ref('int_coverage_calendar')) }} as tested
    where is_counted
),

-- Added up before they meet the slices, or PostgreSQL may look up the whole day of a connection for each of its slices.
meters as (
    select
        usage_date,
        connection_id,
        stream,
        scope,
        meter,
        currency,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    group by usage_date, connection_id, stream, scope, meter, currency
),

metered as (
    select
        slices.provider,
        slices.usage_date,
        meters.meter,
        meters.quantity,
        meters.currency,
        meters.meter like 'cache_write%' as is_written_to_cache
    from meters
    inner join slices
        on
            meters.usage_date = slices.usage_date
            and meters.connection_id = slices.connection_id
            and meters.stream = slices.stream
            and meters.scope = slices.scope
),

measured as (
    select
        provider,
        usage_date,
        meter as measure,
        currency,
        quantity
    from metered
    where meter in ('{{ shared | join("', '") }}')
    union all
    select
        provider,
        usage_date,
        'cache_write_tokens' as measure,
        currency,
        quantity
    from metered
    where is_written_to_cache
    union all
    select
        provider,
        usage_date,
        'input_tokens' as measure,
        currency,
        quantity
    from metered
    where is_written_to_cache or meter in ('uncached_input_tokens', 'cache_read_tokens', 'unsplit_input_tokens')
),

expected as (
    select
        provider,
        usage_date,
        measure,
        coalesce(currency, '') as currency,
        sum(quantity) as quantity
    from measured
    group by provider, usage_date, measure, coalesce(currency, '')
),

{% for table in ['usage_daily', 'usage_daily_detail'] -%}
    {{ table }}_sums as (
        select
            tested.provider,
            tested.usage_date,
            measure.measure,
            measure.currency,
            sum(measure.quantity) as quantity
        from {{ tested_rows(ref(table)) }} as tested
        cross join
            lateral (
                values
                {% for measure in shared + ['cache_write_tokens', 'input_tokens'] -%}
                    {%- set currency = 'tested.billed_currency' if measure in ('billed_cost', 'credits') else "''" -%}
                    ('{{ measure }}', tested.{{ measure }}, {{ currency }}){{ '' if loop.last else ',' }}
                {% endfor -%}
            ) as measure (measure, quantity, currency)
        where measure.quantity is not null
        group by tested.provider, tested.usage_date, measure.measure, measure.currency
    ),

{% endfor -%}

found as (
    select
        *,
        'usage_daily' as mart
    from usage_daily_sums
    union all
    select
        *,
        'usage_daily_detail' as mart
    from usage_daily_detail_sums
),

marts (mart) as (
    values ('usage_daily'), ('usage_daily_detail')
),

wanted as (
    select
        expected.*,
        marts.mart
    from expected
    cross join marts
)

select
    mart,
    provider,
    usage_date,
    measure,
    currency,
    wanted.quantity as expected,
    found.quantity as found
from wanted
full join found using (mart, provider, usage_date, measure, currency)
-- NULL on one side only is a difference too: nothing given is not zero.
where wanted.quantity is distinct from found.quantity
