{# No quantity is below zero. #}
{% test not_negative(model, columns) %}
    select *
    from {{ tested_rows(model) }} as tested
    where {% for column in columns %}tested.{{ column }} < 0{{ '' if loop.last else ' or ' }}{% endfor %}
{% endtest %}
