{# The states of a slice, best first. #}
{% macro coverage_order() -%}
    array['final', 'confirmed_zero', 'provisional', 'outside_retention', 'not_entitled', 'missing', 'failed']
{%- endmacro %}

{# Aggregate: the worst state of a group. #}
{% macro worst_coverage(column) -%}
    ({{ coverage_order() }})[max(array_position({{ coverage_order() }}, {{ column }}))]
{%- endmacro %}

{#
    An expression over the last attempt, with one of some outcomes, at the day of a row of `slices`. Looked up row by row,
    and only if its column is asked for.
#}
{% macro of_last_attempt(expression, outcomes) -%}
    (
        select {{ expression }}
        from {{ ref('stg_ops__extractions') }} as attempts
        where
            attempts.connection_id = slices.connection_id
            and attempts.stream = slices.stream
            and attempts.scope = slices.scope
            and slices.usage_date between attempts.window_first and attempts.window_last
            and attempts.outcome in ('{{ outcomes | join("', '") }}')
        order by attempts.started_at desc
        limit 1
    )
{%- endmacro %}

{# The latest of the last attempts, with one of some outcomes or any, at the streams of a row of `scopes`. #}
{% macro of_last_attempts(moment, outcomes=none) -%}
    (
        select max(last_ones.{{ moment }})
        from {{ ref('stg_ops__streams') }} as streams
        cross join
            lateral (
                select extractions.{{ moment }}
                from {{ ref('stg_ops__extractions') }} as extractions
                where
                    extractions.connection_id = scopes.connection_id
                    and extractions.stream = streams.stream
                    and extractions.scope = scopes.scope
                    {% if outcomes -%}
                        and extractions.outcome in ('{{ outcomes | join("', '") }}')
                    {%- endif %}
                order by extractions.started_at desc
                limit 1
            ) as last_ones
        where streams.provider = connections.provider
    )
{%- endmacro %}

{# Whether a stream's records are usage: a balance that could not be read takes nothing away from what was used. #}
{% macro is_usage(provider='provider', stream='stream') -%}
    {{ provider }} || '/' || {{ stream }} not in ('{{ var('streams_beside_usage') | join("', '") }}')
{%- endmacro %}
