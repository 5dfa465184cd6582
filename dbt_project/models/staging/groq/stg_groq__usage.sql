-- Each rate covers 300 seconds, so 300 times their sum is what was counted. Here it is as it comes, unrounded.
-- (Without `with`, like the other views over raw records.)
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    coalesce(source.record ->> 'model', 'no model') as raw_model_id,
    source.record ->> 'project_id' as project_id,

    ---------- counts
    300 * (source.record #>> '{tokens_in,rate_sum}')::numeric as input_tokens,
    300 * (source.record #>> '{tokens_out,rate_sum}')::numeric as output_tokens,
    -- A status that never came up has no series, and is zero. Without any series of requests, nothing is known of them.
    case when requests.points is not null then 300 * coalesce(requests.answered, 0) end as answered_requests,
    case when requests.points is not null then 300 * coalesce(requests.throttled, 0) end as throttled_requests,
    case when requests.points is not null then 300 * coalesce(requests.client, 0) end as client_errors,
    case when requests.points is not null then 300 * coalesce(requests.server, 0) end as server_errors,

    ---------- coverage
    (source.record #>> '{tokens_in,points}')::integer as input_points,
    (source.record #>> '{tokens_out,points}')::integer as output_points,
    requests.points as request_points,
    (source.record ->> 'gaps')::integer as gaps,

    ---------- dates
    slices.usage_date

from {{ source('groq', 'groq_usage') }} as source
-- Of each slice, the one load that counts.
inner join {{ ref('stg_ops__slices') }} as slices on source.load_id = slices.load_id
cross join
    lateral (
        select
            sum((one.status ->> 'rate_sum')::numeric)
            filter (where (one.status ->> 'status_code' ~ '^[45]..$') is not true) as answered,
            sum((one.status ->> 'rate_sum')::numeric) filter (where one.status ->> 'status_code' = '429') as throttled,
            sum((one.status ->> 'rate_sum')::numeric)
            filter (where one.status ->> 'status_code' ~ '^4..$' and one.status ->> 'status_code' <> '429') as client,
            sum((one.status ->> 'rate_sum')::numeric) filter (where one.status ->> 'status_code' ~ '^5..$') as server,
            max((one.status ->> 'points')::integer) as points
        from jsonb_array_elements(source.record -> 'requests') as one (status)
    ) as requests
