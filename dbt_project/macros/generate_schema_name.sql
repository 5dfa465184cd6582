{# Models land exactly in the schema they are configured for: those exist already, and dbt may not create others. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
