{{
    config(
        incremental_strategy='replace_changed_months',
        unique_key=['provider', 'usage_month'],
        full_refresh=false,
        indexes=[{'columns': ['usage_month', 'provider']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

select
    slices.provider,
    date_trunc('month', slices.usage_date)::date as usage_month,
    slices.account_id,
    slices.stream,
    slices.scope,
    count(*) filter (where slices.is_loaded) as covered_days
from {{ ref('int_coverage_calendar') }} as slices
{{ only_changed_months('slices') }}
where slices.is_counted
group by
    slices.provider, date_trunc('month', slices.usage_date)::date, slices.account_id, slices.stream, slices.scope
