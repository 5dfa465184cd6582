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
    select * from {{ ref('coverage_calendar') }}
    {{ only_changed(['provider', 'usage_date']) }}
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
        account_id,
        region,
        endpoint,
        raw_model_id,
        {% for meter in meters() -%}
            sum(quantity) filter (where meter = '{{ meter }}') as {{ meter }},
        {% endfor -%}
        sum(quantity) filter (
            where meter in (
                'uncached_input_tokens', 'cache_read_tokens', 'cache_write_tokens', 'unsplit_input_tokens'
            )
        ) as input_tokens
    from meters
    group by usage_date, provider, connection_id, stream, scope, account_id, region, endpoint, raw_model_id
),

-- The inner join drops the slices that another connection already counts. A slice that is not loaded stays as one row
-- without a model, so that no sum can pass over it unnoticed.
joined as (
    select
        slices.usage_date,
        slices.provider,
        coalesce(quantities.account_id, slices.account_id) as account_id,
        -- The name belongs to the account of the scope; a record may speak of another.
        case
            when quantities.account_id is null or quantities.account_id = slices.account_id then slices.account_name
        end as account_name,
        coalesce(quantities.region, slices.region) as region,
        slices.connection_id,
        slices.stream,
        slices.scope,
        quantities.endpoint,
        quantities.raw_model_id,
        {% for meter in meters() -%}
            quantities.{{ meter }},
        {% endfor -%}
        quantities.input_tokens,
        slices.coverage
    from slices
    left join quantities
        on
            slices.usage_date = quantities.usage_date
            and slices.connection_id = quantities.connection_id
            and slices.stream = quantities.stream
            and slices.scope = quantities.scope
    where quantities.raw_model_id is not null or not slices.is_loaded
)

select
    joined.usage_date,
    joined.provider,
    joined.account_id,
    joined.account_name,
    joined.region,
    models.model,
    joined.connection_id,
    joined.stream,
    joined.scope,
    joined.endpoint,
    joined.raw_model_id,
    models.routing_scope,
    models.endpoint_kind,
    joined.requests,
    joined.input_tokens,
    joined.uncached_input_tokens,
    joined.cache_read_tokens,
    joined.cache_write_tokens,
    joined.unsplit_input_tokens,
    joined.output_tokens,
    joined.output_images,
    joined.client_errors,
    joined.server_errors,
    joined.throttled_requests,
    joined.compute_seconds,
    joined.api_calls,
    null::numeric as billed_cost,
    null::text as billed_currency,
    joined.coverage
from joined
left join models on joined.provider = models.provider and joined.raw_model_id = models.raw_model_id
