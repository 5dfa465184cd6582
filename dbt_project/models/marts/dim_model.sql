{{
    config(
        incremental_strategy='mirror',
        unique_key=['provider', 'raw_model_id'],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

with

models as (
    select * from {{ ref('int_model_identity') }}
),

-- Two probes of an index per id. Ids that a restatement took away altogether have no first day, and are left out.
used as (
    select
        models.*,
        (
            select min(detail.usage_date)
            from {{ ref('usage_daily_detail') }} as detail
            where detail.provider = models.provider and md5(detail.raw_model_id) = md5(models.raw_model_id)
        ) as first_usage_date,
        (
            select max(detail.usage_date)
            from {{ ref('usage_daily_detail') }} as detail
            where detail.provider = models.provider and md5(detail.raw_model_id) = md5(models.raw_model_id)
        ) as last_usage_date
    from models
)

select
    provider,
    raw_model_id,
    model,
    developer,
    model_name,
    model_family,
    model_version,
    snapshot_date,
    routing_scope,
    endpoint_kind,
    is_resolved,
    first_usage_date,
    last_usage_date
from used
where first_usage_date is not null
