{# The states of a slice, best first. #}
{% macro coverage_order() -%}
    array['final', 'confirmed_zero', 'provisional', 'outside_retention', 'not_entitled', 'missing', 'failed']
{%- endmacro %}

{# Aggregate: the worst state of a group. #}
{% macro worst_coverage(column) -%}
    ({{ coverage_order() }})[max(array_position({{ coverage_order() }}, {{ column }}))]
{%- endmacro %}

{# Whether a stream's records are usage: a balance that could not be read takes nothing away from what was used. #}
{% macro is_usage(provider='provider', stream='stream') -%}
    {{ provider }} || '/' || {{ stream }} not in ('{{ var('streams_beside_usage') | join("', '") }}')
{%- endmacro %}
