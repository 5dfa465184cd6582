{# Of the rows that agree in all the columns, one counts. #}
{% test counts_once(model, columns) %}
    select
        {{ columns | join(', ') }},
        count(*) filter (where is_counted) as counted
    from {{ tested_rows(model) }} as tested
    group by {{ columns | join(', ') }}
    having count(*) filter (where is_counted) <> 1
{% endtest %}
