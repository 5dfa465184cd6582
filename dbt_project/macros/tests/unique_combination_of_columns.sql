{# No two rows agree in all the columns; two NULLs agree. #}
{% test unique_combination_of_columns(model, columns, windowed=true) %}
    select
        {{ columns | join(', ') }},
        count(*) as copies
    from {{ tested_rows(model, windowed) }} as tested
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}
