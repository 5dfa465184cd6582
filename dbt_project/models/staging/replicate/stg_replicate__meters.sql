-- Runs are added up here, slice by slice: the marts show no single run, and there may be a million of them on a day.
-- The sums stand inside a lateral join, because PostgreSQL does not carry the condition on changed days into a grouped
-- view. (Without `with`, like the model it reads.)
select
    ---------- ids
    slices.connection_id,
    slices.stream,
    slices.scope,
    null::text as account_id,
    sums.raw_model_id,
    sums.deployment as project_id,
    null::text as credential_id,

    ---------- strings
    null::text as region,
    -- Always four parts, so that split_part finds each of them.
    slices.stream
    || '/' || coalesce(sums.source, '-')
    || '/' || sums.status
    || '/' || coalesce(sums.version, '-') as endpoint,
    sums.deployment as project_name,
    null::text as service_tier,
    meter.meter,
    null::text as currency,

    ---------- numerics
    meter.quantity,

    ---------- dates
    slices.usage_date

from {{ ref('stg_ops__slices') }} as slices
cross join
    lateral (
        select
            runs.raw_model_id,
            runs.deployment,
            runs.source,
            runs.status,
            runs.version,
            count(*)::numeric as runs,
            sum(runs.predict_seconds) as predict_seconds,
            sum(runs.input_tokens) as input_tokens,
            sum(runs.output_tokens) as output_tokens
        from {{ ref('stg_replicate__runs') }} as runs
        where
            runs.load_id = slices.load_id
            -- The load says it all; with these two, the slices that the runs are joined with are found by index, too.
            and runs.usage_date = slices.usage_date
            and runs.connection_id = slices.connection_id
            -- Nobody says whether a training is listed among the predictions as well. If so, it is a training.
            and not exists (
                select
                from {{ ref('stg_replicate__runs') }} as trainings
                where
                    slices.stream = 'predictions'
                    and trainings.stream = 'trainings'
                    and trainings.connection_id = slices.connection_id
                    and trainings.usage_date = slices.usage_date
                    and trainings.run_id = runs.run_id
            )
        group by runs.raw_model_id, runs.deployment, runs.source, runs.status, runs.version
    ) as sums
cross join
    lateral (
        values
        ('requests', sums.runs),
        -- While it computed: neither waiting nor starting up is in it.
        ('compute_seconds', sums.predict_seconds),
        -- Whether some of it came from a cache is not told.
        ('unsplit_input_tokens', sums.input_tokens),
        ('output_tokens', sums.output_tokens)
    ) as meter (meter, quantity)
where slices.provider = 'replicate' and meter.quantity is not null
