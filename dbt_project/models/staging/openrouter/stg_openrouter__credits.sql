-- Written without `with`, like the other views over raw records.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    slices.account_id,

    ---------- strings
    slices.account_name,

    ---------- US dollars
    (source.record ->> 'total_credits')::numeric as credits_bought,
    (source.record ->> 'total_usage')::numeric as credits_used,

    ---------- dates and timestamps
    slices.usage_date,
    slices.extracted_at

from {{ source('openrouter', 'openrouter_credits') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
