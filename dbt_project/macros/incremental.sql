{#
    How the tables of this project are kept: what changed is replaced whole, the rest is not touched.

    `replace_changed` deletes the rows of the changed days (by the columns of `unique_key`) and inserts what the model
    now says about them, so that rows and whole days that vanished upstream vanish here too. `mirror` is for small
    tables whose query states the complete truth: only rows that differ are written.

    `replace_changed_months` does the same for whole months, by provider: its rows have a `usage_month`.

    A table that views stand on has `full_refresh: false`: it is never swapped for a new one, which would take its views
    away from their readers, but emptied and filled again in one transaction.

    The lock comes before the first read (`hold_target` is each table's pre-hook), not merely before the delete: of two
    builds at once the later writer has then also read later, and cannot put an older state back.
#}

{% macro hold_target() -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- if existing is not none and existing.is_table -%}
        lock table {{ this }} in share row exclusive mode;
    {% endif -%}
    {%- if config.get('incremental_strategy').startswith('replace_changed') -%}
        {#- The delete and the insert must mean the same days, even if another build rewrites the list meanwhile. -#}
        lock table {{ ref('stg_ops__changed_days') }} in share mode;
    {%- endif -%}
{%- endmacro %}

{# A table that was just filled has no statistics yet, and its first readers come within the second. #}
{% macro analyse_new_table() -%}
    {%- if not is_incremental() -%} analyze {{ this }} {%- endif -%}
{%- endmacro %}

{% macro get_incremental_replace_changed_sql(args) %}
    {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    {%- set key = args['unique_key'] -%}
    {%- set changed_days = ref('stg_ops__changed_days') -%}
    {%- if flags.FULL_REFRESH -%}
        delete from {{ args['target_relation'] }};
    {%- else -%}
        delete from {{ args['target_relation'] }} as stored
        using (select distinct {{ key | join(', ') }} from {{ args['changed'] or changed_days }}) as changed
        where
            {% for column in key -%}
                stored.{{ column }} = changed.{{ column }}{{ '' if loop.last else ' and ' }}
            {%- endfor %};
    {%- endif %}

    insert into {{ args['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ args['temp_relation'] }}
{% endmacro %}

{% macro get_incremental_replace_changed_months_sql(args) %}
    {%- set months = {'changed': '(' ~ changed_months() ~ ') as months'} -%}
    {%- do months.update(args) -%}
    {{ get_incremental_replace_changed_sql(months) }}
{% endmacro %}

{% macro get_incremental_mirror_sql(args) %}
    {%- set columns = args['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    {%- set key = args['unique_key'] | join(', ') -%}
    delete from {{ args['target_relation'] }}
    where ({{ key }}) in (
        select {{ key }}
        from (
            select {{ columns }} from {{ args['target_relation'] }}
            except
            select {{ columns }} from {{ args['temp_relation'] }}
        ) as outdated
    );

    insert into {{ args['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ args['temp_relation'] }}
    except
    select {{ columns }} from {{ args['target_relation'] }}
{% endmacro %}

{#
    The condition that keeps an incremental build to what changed; nothing at all on a first build or a full refresh.
    `columns` are (connection_id, usage_date) up to the meters, and (provider, usage_date) in the marts.
#}
{% macro only_changed(columns, alias=none, keyword='where') -%}
    {#- Asked for on every path, so that dbt knows of the dependency when it parses. -#}
    {%- set changed_days = ref('stg_ops__changed_days') -%}
    {%- if is_incremental() and not flags.FULL_REFRESH -%}
        {{ keyword }} (
            {%- for column in columns %}{{ alias ~ '.' if alias }}{{ column }}{{ '' if loop.last else ', ' }}{% endfor -%}
        ) in (select {{ columns | join(', ') }} from {{ changed_days }})
    {%- endif -%}
{%- endmacro %}

{# The months that hold a changed day, by provider. #}
{% macro changed_months() -%}
    select distinct
        provider,
        date_trunc('month', usage_date)::date as usage_month
    from {{ ref('stg_ops__changed_days') }}
{%- endmacro %}

{#
    Keeps an incremental build to the months that changed, every one of them whole; nothing at all on a first build or a
    full refresh. A join on ranges, because those are found by the index that begins with the day.
#}
{% macro only_changed_months(alias) -%}
    {%- set months = changed_months() -%}
    {%- if is_incremental() and not flags.FULL_REFRESH -%}
        inner join ({{ months }}) as changed
            on
                {{ alias }}.provider = changed.provider
                and {{ alias }}.usage_date >= changed.usage_month
                and {{ alias }}.usage_date < (changed.usage_month + interval '1 month')::date
    {%- endif -%}
{%- endmacro %}

{#
    The distinct values of a few leading columns of an index, one probe per value instead of one read of the table: the
    number of accounts stays small while the history grows.
#}
{% macro distinct_by_index(relation, columns) -%}
    {%- set list = columns | join(', ') -%}
    (
        with recursive found as (
            (select {{ list }} from {{ relation }} order by {{ list }} limit 1)
            union all
            select next_one.*
            from found
            cross join lateral (
                select {{ list }}
                from {{ relation }} as candidate
                where
                    ({% for column in columns %}candidate.{{ column }}{{ '' if loop.last else ', ' }}{% endfor %})
                    > ({% for column in columns %}found.{{ column }}{{ '' if loop.last else ', ' }}{% endfor %})
                order by {{ list }}
                limit 1
            ) as next_one
        )

        select {{ list }} from found
    )
{%- endmacro %}
