{#
    The rows of a model that a test has to look at: those of the days that this build changed, so that what tests cost does
    not grow with the history either. All of history is tested with AI_USAGE_TEST_ALL=1, on a full refresh,
    and by `dbt test`, which changes nothing.
#}
{% macro tested_rows(model, windowed=true) -%}
    {%- set changed_days = ref('stg_ops__changed_days') -%}
    {%- set everything = env_var('AI_USAGE_TEST_ALL', '0') == '1' or flags.FULL_REFRESH or flags.WHICH == 'test' -%}
    {%- if everything or not windowed -%}
        {{ model }}
    {%- else -%}
        (
            select *
            from {{ model }}
            where (provider, usage_date) in (select provider, usage_date from {{ changed_days }})
        )
    {%- endif -%}
{%- endmacro %}

{#
    The end of a test <provider>_keeps_every_record_and_number: what differs between raw and meters. It reads what the test
    has gathered: raw_sums and meter_sums (connection_id, usage_date, `what`, quantity), and the counted slices and their
    records. With `absent_is_zero` a number that is told as zero may be no meter at all.
#}
{% macro differences_from_raw(what='measure', absent_is_zero=true) %}
    select
        connection_id,
        usage_date,
        {{ what }} as what,
        raw_sums.quantity as expected,
        meter_sums.quantity as found
    from raw_sums
    full join meter_sums using (connection_id, usage_date, {{ what }})
    {% if absent_is_zero -%}
        where coalesce(raw_sums.quantity, 0) <> coalesce(meter_sums.quantity, 0)
    {%- else -%}
        where raw_sums.quantity is distinct from meter_sums.quantity
    {%- endif %}

    union all

    {{ records_amiss() }}
{% endmacro %}

{# The counted slices of which raw has more or fewer records than the ledger says. It reads slices and records. #}
{% macro records_amiss() %}
    select
        slices.connection_id,
        slices.usage_date,
        'raw records of ' || slices.stream || ' ' || slices.scope as what,
        slices.record_count as expected,
        coalesce(sizes.found, 0) as found
    from slices
    left join (
        select
            load_id,
            count(*) as found
        from records
        group by load_id
    ) as sizes on slices.load_id = sizes.load_id
    where slices.record_count <> coalesce(sizes.found, 0)
{% endmacro %}
