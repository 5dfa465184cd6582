{#
    Views are replaced in place. The stock way (build beside, rename, drop the old one) drops whatever hangs on the view
    and lets a second build at the same moment find it missing.
#}
{% materialization view, adapter='postgres' -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% if config.get('contract').enforced %}
        {{ get_assert_columns_equivalent(sql) }}
    {% endif %}
    {% if existing is not none and not is_same_view(existing, sql) %}
        {% do adapter.drop_relation(existing) %}
    {% endif %}
    {% call statement('main') -%}
        create or replace view {{ target_relation }} as (
            {{ sql }}
        )
    {%- endcall %}

    {% do apply_grants(target_relation, config.get('grants'), should_revoke=true) %}
    {% do persist_docs(target_relation, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}

{# Whether PostgreSQL can replace the view in place: it insists on the same columns of the same types in the same order. #}
{% macro is_same_view(existing, sql) %}
    {% if not existing.is_view %}
        {{ return(false) }}
    {% endif %}
    {% set before = [] %}
    {% for column in adapter.get_columns_in_relation(existing) %}
        {% do before.append([column.name, column.dtype]) %}
    {% endfor %}
    {% set probe = make_temp_relation(this) %}
    {% do run_query('create temporary view "' ~ probe.identifier ~ '" as (' ~ sql ~ ')') %}
    {% set now = [] %}
    {% for column in adapter.get_columns_in_relation(probe) %}
        {% do now.append([column.name, column.dtype]) %}
    {% endfor %}
    {% do run_query('drop view "' ~ probe.identifier ~ '"') %}
    {{ return(before == now) }}
{% endmacro %}
