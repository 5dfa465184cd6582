{{
    config(
        incremental_strategy='replace_changed',
        unique_key=['usage_date', 'provider', 'connection_id'],
        contract={'enforced': true},
        indexes=[{'columns': ['usage_date', 'provider', 'connection_id']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

-- Every branch is kept to the changed days by itself: PostgreSQL does not carry the condition into a union of joins.
{% for provider in var('providers') %}
    select
        '{{ provider }}' as provider,
        meters.connection_id,
        meters.stream,
        meters.scope,
        meters.account_id,
        meters.raw_model_id,
        meters.region,
        meters.endpoint,
        meters.project_id,
        meters.project_name,
        meters.credential_id,
        meters.service_tier,
        meters.meter,
        meters.quantity,
        meters.currency,
        meters.usage_date
    from {{ ref('stg_' ~ provider ~ '__meters') }} as meters
    {{ only_changed(['connection_id', 'usage_date'], 'meters') }}
    {{ 'union all' if not loop.last }}
{% endfor %}
