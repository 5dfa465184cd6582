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
