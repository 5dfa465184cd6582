{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['provider', 'usage_date'],
        indexes=[{'columns': ['usage_date', 'provider']}, {'columns': ['provider', 'account_id', 'usage_date']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

select
    usage_date,
    provider,
    account_id,
    account_name,
    region,
    connection_id,
    stream,
    scope,
    coverage,
    is_loaded,
    record_count
from {{ ref('int_coverage_calendar') }}
where
    is_counted
    {{ only_changed(['provider', 'usage_date'], keyword='and') }}
