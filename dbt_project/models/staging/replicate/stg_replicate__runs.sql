-- Written without `with`: PostgreSQL plans a view that has one apart from the query that reads it, and then one changed
-- day would cost a read of all history.
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    source.load_id,
    source.record ->> 'id' as run_id,
    source.record ->> 'model' as raw_model_id,
    source.record ->> 'version' as version,
    source.record ->> 'deployment' as deployment,

    ---------- strings
    source.record ->> 'status' as status,
    source.record ->> 'source' as source,

    ---------- numerics
    (source.record -> 'metrics' ->> 'predict_time')::numeric as predict_seconds,
    (source.record -> 'metrics' ->> 'input_token_count')::numeric as input_tokens,
    (source.record -> 'metrics' ->> 'output_token_count')::numeric as output_tokens,

    ---------- dates and timestamps
    slices.usage_date,
    (source.record ->> 'created_at')::timestamptz as created_at,
    (source.record ->> 'started_at')::timestamptz as started_at,
    (source.record ->> 'completed_at')::timestamptz as completed_at

from (
    {% for stream in ['predictions', 'trainings'] -%}
        select
            load_id,
            record
        from {{ source('replicate', 'replicate_' ~ stream) }}
        {{ 'union all' if not loop.last }}
    {% endfor -%}
) as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
