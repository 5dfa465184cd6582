{# The hours after the end of a UTC day at which the settlement curve is read. #}
{% macro settlement_hours() %}
    {{ return([0, 1, 2, 3, 6, 12, 24, 48, 72, 168, 336]) }}
{% endmacro %}

{# Settlement is told from the newest 180 days, counted from the newest day there is, not from the clock. #}
{% macro recent_settlement() -%}
    (
        select *
        from {{ ref('int_slice_settlement') }}
        where usage_date > (select max(usage_date) from {{ ref('int_slice_settlement') }}) - 180
    )
{%- endmacro %}
