{# Every row whose columns are all filled has its row in the parent, which calls them the same. #}
{% test refers_to(model, columns, parent) %}
    select distinct {{ columns | join(', ') }}
    from {{ tested_rows(model) }} as tested
    where
        {% for column in columns -%}
            tested.{{ column }} is not null and
        {% endfor -%}
        not exists (
            select
            from {{ parent }} as parent
            where {% for column in columns %}parent.{{ column }} = tested.{{ column }}{{ '' if loop.last else ' and ' }}{% endfor %}
        )
{% endtest %}
