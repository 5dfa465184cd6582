{#
    Views are replaced in place. The stock way (build beside, rename, drop the old one) drops whatever hangs on the view
    and lets a second build at the same moment find it missing. A view that says the same as before is left alone: to replace
    it, a build would wait for whoever is reading it, and all later readers for the build.
#}
{% materialization view, adapter='postgres' -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% if config.get('contract').enforced %}
        {{ get_assert_columns_equivalent(sql) }}
    {% endif %}
    {% set change = change_of_view(existing, sql) %}
    {% if change == 'other columns' %}
        {% do adapter.drop_relation(existing) %}
    {% endif %}
    {% call statement('main') -%}
        {% if change == 'none' -%}
            select
        {%- else -%}
            create or replace view {{ target_relation }} as (
                {{ sql }}
            )
        {%- endif %}
    {%- endcall %}

    {% do apply_grants(target_relation, config.get('grants'), should_revoke=true) %}
    {% do persist_docs(target_relation, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}

{#
    What building a view changes: `none`, its `meaning`, or that it gets `other columns`, for which PostgreSQL cannot replace
    it in place (it insists on the same names and types in the same order). What is no view yet has other columns too.
#}
{% macro change_of_view(existing, sql) %}
    {% if existing is none %}
        {{ return('meaning') }}
    {% endif %}
    {% if not existing.is_view %}
        {{ return('other columns') }}
    {% endif %}
    {% set probe = make_temp_relation(this).identifier %}
    {% do run_query('create temporary view "' ~ probe ~ '" as (' ~ sql ~ ')') %}
    {% set compared = run_query(
        "select pg_get_viewdef(old.oid) = pg_get_viewdef(new.oid) as is_same, "
        ~ columns_of_view('old') ~ " = " ~ columns_of_view('new') ~ " as has_same_columns "
        ~ "from (select '" ~ existing ~ "'::regclass as oid) as old, (select 'pg_temp.\"" ~ probe ~ "\"'::regclass as oid) as new"
    ).rows[0] %}
    {% do run_query('drop view pg_temp."' ~ probe ~ '"') %}
    {{ return('none' if compared['is_same'] else 'meaning' if compared['has_same_columns'] else 'other columns') }}
{% endmacro %}

{% macro columns_of_view(view) -%}
    (
        select array_agg(attname::text || ' ' || format_type(atttypid, atttypmod) order by attnum)
        from pg_attribute
        where attrelid = {{ view }}.oid and attnum > 0 and not attisdropped
    )
{%- endmacro %}
