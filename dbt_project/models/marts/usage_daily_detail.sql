{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['provider', 'usage_date'],
        indexes=[
            {'columns': ['usage_date', 'provider']},
            {'columns': ['provider', 'md5(raw_model_id)', 'usage_date']},
        ],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

slices as (
    select * from {{ ref('int_coverage_calendar') }}
    where
        is_counted
        {{ only_changed(['provider', 'usage_date'], keyword='and') }}
),

meters as (
    select * from {{ ref('int_usage_meters') }}
    {{ only_changed(['provider', 'usage_date']) }}
),

models as (
    select * from {{ ref('int_model_identity') }}
),

quantities as (
    select
        usage_date,
        provider,
        connection_id,
        stream,
        scope,
        {% for dimension in detail_dimensions() -%}
            {{ dimension }},
        {% endfor -%}
        currency,
        {% for measure in detail_measures() -%}
            {{ measure_of(measure) }} as {{ measure }},
        {% endfor -%}
        max(project_name) as project_name
    from meters
    group by usage_date, provider, connection_id, stream, scope, {{ detail_dimensions() | join(', ') }}, currency
),

priced as (
    select
        *,
        {{ own_or_first_currency(
            'currency', ['usage_date', 'connection_id', 'stream', 'scope'] + detail_dimensions()
        ) }} as billed_currency
    from quantities
),

usage as (
    select
        usage_date,
        provider,
        connection_id,
        stream,
        scope,
        {% for dimension in detail_dimensions() -%}
            {{ dimension }},
        {% endfor -%}
        billed_currency,
        {% for measure in detail_measures() -%}
            sum({{ measure }}) as {{ measure }},
        {% endfor -%}
        max(project_name) as project_name
    from priced
    group by
        usage_date, provider, connection_id, stream, scope, {{ detail_dimensions() | join(', ') }}, billed_currency
),

-- The inner join drops the slices that another connection already counts. A slice that is not loaded stays as one row
-- without a model, so that no sum can pass over it unnoticed.
joined as (
    select
        slices.usage_date,
        slices.provider,
        coalesce(usage.account_id, slices.account_id) as account_id,
        -- The name belongs to the account of the scope; a record may speak of another.
        case
            when usage.account_id is null or usage.account_id = slices.account_id then slices.account_name
        end as account_name,
        coalesce(usage.region, slices.region) as region,
        slices.connection_id,
        slices.stream,
        slices.scope,
        usage.endpoint,
        usage.project_id,
        usage.project_name,
        usage.credential_id,
        usage.service_tier,
        usage.raw_model_id,
        {% for measure in detail_measures() -%}
            usage.{{ measure }},
        {% endfor -%}
        usage.billed_currency,
        slices.coverage
    from slices
    left join usage
        on
            slices.usage_date = usage.usage_date
            and slices.connection_id = usage.connection_id
            and slices.stream = usage.stream
            and slices.scope = usage.scope
    where usage.raw_model_id is not null or not slices.is_loaded
)

select
    joined.usage_date,
    joined.provider,
    {{ category_of('joined.provider') }} as category,
    joined.account_id,
    joined.account_name,
    joined.region,
    models.model,
    joined.connection_id,
    joined.stream,
    joined.scope,
    joined.endpoint,
    joined.project_id,
    joined.project_name,
    joined.credential_id,
    joined.service_tier,
    joined.raw_model_id,
    models.routing_scope,
    models.endpoint_kind,
    {% for measure in detail_measures() -%}
        joined.{{ measure }},
    {% endfor -%}
    joined.billed_currency,
    joined.coverage
from joined
left join models on joined.provider = models.provider and joined.raw_model_id = models.raw_model_id
