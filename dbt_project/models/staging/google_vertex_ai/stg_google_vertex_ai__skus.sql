{{
    config(
        materialized='incremental',
        incremental_strategy='mirror',
        unique_key=['sku_description'],
        on_schema_change='fail',
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

-- A table, because a text means the same on every day: a few hundred are resolved once per build, not once per row.
-- The rules are in macros/google_vertex_ai_skus.sql. What no rule knows stays unmapped; nothing is guessed.
with

met as (
    select distinct sku_description
    from {{ ref('stg_google_vertex_ai__costs') }}
    {{ only_changed(['connection_id', 'usage_date']) }}
    {% if is_incremental() %}
        union
        select sku_description
        from {{ this }}
    {% endif %}
),

texts as (
    select
        sku_description,
        btrim(regexp_replace(sku_description, '\s+', ' ', 'g')) as shown_text,
        btrim(
            regexp_replace(
                regexp_replace(lower(regexp_replace(sku_description, '[–—]', '-', 'g')), '[[:<:]]ga[[:>:]]', ' ', 'g'),
                '\s+', ' ', 'g'
            )
        ) as text
    from met
),

parts as materialized (
    select
        *,
        {{ google_vertex_ai_read('kind') }} as kind,
        -- Two numbers in a row are a version: Claude Opus 4 5.
        replace(
            regexp_replace({{ google_vertex_ai_read('model') }}, '[[:<:]]([0-9]) ([0-9])[[:>:]]', '\1.\2'), ' ', '-'
        ) as model_name,
        {{ google_vertex_ai_read('modality') }} as modality,
        {{ google_vertex_ai_read('tier') }} as service_tier,
        {{ google_vertex_ai_read('context') }} as context_band,
        {{ google_vertex_ai_read('endpoint') }} as endpoint_scope,
        text ~ '(^|[ (])thinking[[:>:]]' as is_thinking,
        text ~ '[[:<:]]live[[:>:]]' as is_live
    from texts
),

judged as (
    select
        *,
        -- The words input and output alone prove nothing: it must be some model's, or of tokens.
        coalesce(
            case
                when kind = 'unclear' then false
                when kind in ('cache_storage', 'training', 'platform', 'provisioned_throughput', 'tool_requests')
                    then true
                else model_name is not null
            end,
            false
        )
        and kind is not null as is_mapped
    from parts
)

select
    sku_description,
    case when is_mapped and model_name is not null then model_name else shown_text end as raw_model_id,
    kind,
    case when is_mapped then model_name end as model_name,
    modality,
    service_tier,
    context_band,
    endpoint_scope,
    case
        when is_mapped
            then case kind
                {% for kind, meter in google_vertex_ai_meters().items() -%}
                    when '{{ kind }}' then '{{ meter }}'
                {% endfor -%}
            end
    end as meter,
    is_thinking,
    is_live,
    is_mapped
from judged
