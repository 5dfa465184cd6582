-- Per provider and day: what the meters of the counted slices hold, the two tables of usage hold too.
{%- set shared = [
    'requests', 'uncached_input_tokens', 'cache_read_tokens', 'cache_write_tokens', 'output_tokens', 'output_images',
    'compute_seconds', 'api_calls',
] %}

with

slices as (
    select * from {{ tested_rows(ref('coverage_calendar')) }} as tested
),

-- Added up before they meet the slices, or PostgreSQL may look up the whole day of a connection for each of its slices.
meters as (
    select
        usage_date,
        connection_id,
        stream,
        scope,
        meter,
        sum(quantity) as quantity
    from {{ tested_rows(ref('int_usage_meters')) }} as tested
    group by usage_date, connection_id, stream, scope, meter
),

metered as (
    select
        slices.provider,
        slices.usage_date,
        case
            when
                meters.meter in (
                    'uncached_input_tokens', 'cache_read_tokens', 'cache_write_tokens', 'unsplit_input_tokens'
                )
                then 'input_tokens'
        end as total,
        meters.meter,
        meters.quantity
    from meters
    inner join slices
        on
            meters.usage_date = slices.usage_date
            and meters.connection_id = slices.connection_id
            and meters.stream = slices.stream
            and meters.scope = slices.scope
),

expected as (
    select
        provider,
        usage_date,
        meter,
        sum(quantity) as quantity
    from metered
    where meter in ('{{ shared | join("', '") }}')
    group by provider, usage_date, meter
    union all
    select
        provider,
        usage_date,
        total as meter,
        sum(quantity) as quantity
    from metered
    where total is not null
    group by provider, usage_date, total
),

{% for table in ['usage_daily', 'usage_daily_detail'] -%}
    {{ table }}_sums as (
        select
            tested.provider,
            tested.usage_date,
            measure.meter,
            sum(measure.quantity) as quantity
        from {{ tested_rows(ref(table)) }} as tested
        cross join
            lateral (
                values
                {% for measure in shared + ['input_tokens'] -%}
                    ('{{ measure }}', tested.{{ measure }}){{ '' if loop.last else ',' }}
                {% endfor -%}
            ) as measure (meter, quantity)
        where measure.quantity is not null
        group by tested.provider, tested.usage_date, measure.meter
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
    meter,
    wanted.quantity as expected,
    found.quantity as found
from wanted
full join found using (mart, provider, usage_date, meter)
-- NULL on one side only is a difference too: nothing given is not zero.
where wanted.quantity is distinct from found.quantity
