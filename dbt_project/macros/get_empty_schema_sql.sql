{#
    As dbt's own, without its warning about numeric columns that have no precision: in PostgreSQL plain numeric is the
    exact type, and a precision is what would round.
#}
{% macro postgres__get_empty_schema_sql(columns) %}
    select
    {% for column in columns.values() -%}
        {%- if column.get('data_type') is none -%}
            {{ exceptions.column_type_missing(column_names=[column['name']]) }}
        {%- endif -%}
        {{ cast('null', column['data_type']) }} as {{ adapter.quote(column['name']) if column.get('quote') else column['name'] }}
        {{- ', ' if not loop.last }}
    {% endfor %}
{% endmacro %}
