{#
    A model's name without the ways in which Fireworks' resource names and display names differ: path, capitals, the p for
    a dot between two digits, the v before a version, and whatever is no letter or digit.
#}
{% macro fireworks_name(expression) -%}
    regexp_replace(
        regexp_replace(
            regexp_replace(lower(regexp_replace({{ expression }}, '^.*/', '')), '([0-9])p([0-9])', '\1.\2', 'g'),
            '(^|[^a-z])v([0-9])', '\1\2', 'g'
        ),
        '[^a-z0-9]', '', 'g'
    )
{%- endmacro %}
