{{ config(materialized='view') }}

-- A view: the days that should be there, and how old they are, follow the clock and need no build. Of the ledger it
-- reads what the last build saw, so that it speaks of the same loads as the tables of usage.
with

terms as (
    select * from {{ ref('int_coverage_terms') }}
),

places as (
    select * from {{ ref('int_coverage_places') }}
),

slices as (
    select
        calendar.*,
        terms.settle,
        terms.retention_days,
        terms.is_read and (calendar.usage_date >= terms.look_back_from or calendar.coverage = 'provisional')
            as is_read_again,
        -- What a provider no longer tells will not change.
        coalesce(terms.is_read and calendar.usage_date >= coalesce(terms.first_readable_day, '-infinity'), false)
            as is_within_reach
    from {{ ref('int_coverage_calendar') }} as calendar
    left join terms
        on
            calendar.provider = terms.provider
            and calendar.connection_id = terms.connection_id
            and calendar.stream = terms.stream
            and calendar.scope = terms.scope
),

known as (
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
        record_count,
        is_counted,
        extracted_at,
        settle,
        retention_days,
        is_within_reach,
        true as is_in_ledger,
        -- The last attempt at a day that is not loaded tells why. Of days that are read on every run, a reading that
        -- found nothing new counts as well. Both are looked up row by row, and only if the column is asked for.
        case
            when not is_loaded then (
                select attempts.error_message
                from {{ ref('stg_ops__extractions') }} as attempts
                where
                    attempts.connection_id = slices.connection_id
                    and attempts.stream = slices.stream
                    and attempts.scope = slices.scope
                    and slices.usage_date between attempts.window_first and attempts.window_last
                    and attempts.outcome = 'failed'
                order by attempts.started_at desc
                limit 1
            )
        end as error_message,
        case
            when is_loaded and is_read_again then (
                select attempts.started_at
                from {{ ref('stg_ops__extractions') }} as attempts
                where
                    attempts.connection_id = slices.connection_id
                    and attempts.stream = slices.stream
                    and attempts.scope = slices.scope
                    and slices.usage_date between attempts.window_first and attempts.window_last
                    and attempts.outcome in ('loaded', 'unchanged')
                order by attempts.started_at desc
                limit 1
            )
        end as confirmed_at
    from slices
),

-- One probe of the ledger for each day that should be there. The limit keeps PostgreSQL from reading all of history to
-- answer for a month.
holes as (
    select
        places.*,
        places.first_day + days.number as usage_date
    from places
    cross join lateral generate_series(0, places.last_day - places.first_day) as days (number)
    left join
        lateral (
            select true as is_there
            from {{ ref('int_coverage_calendar') }} as calendar
            where
                calendar.provider = places.provider
                and calendar.connection_id = places.connection_id
                and calendar.stream = places.stream
                and calendar.scope = places.scope
                and calendar.usage_date = places.first_day + days.number
            order by calendar.usage_date
            limit 1
        ) as ledger
        on true
    where ledger.is_there is null
),

unknown as (
    select
        usage_date,
        provider,
        account_id,
        account_name,
        region,
        connection_id,
        stream,
        scope,
        case when usage_date < first_readable_day then 'outside_retention' else 'missing' end as coverage,
        false as is_loaded,
        0::bigint as record_count,
        -- As in the ledger: what another connection has read goes before what nobody has.
        row_number() over (
            partition by provider, usage_date, account_id, stream, scope order by connection_id
        ) = 1
        and coalesce(
            (
                select false
                from {{ ref('int_coverage_calendar') }} as calendar
                where
                    calendar.provider = holes.provider
                    and calendar.account_id = holes.account_id
                    and calendar.usage_date = holes.usage_date
                    and calendar.stream = holes.stream
                    and calendar.scope = holes.scope
                    and calendar.is_counted
                order by calendar.connection_id
                limit 1
            ),
            true
        ) as is_counted,
        null::timestamptz as extracted_at,
        null::interval as settle,
        retention_days,
        is_read and usage_date >= coalesce(first_readable_day, '-infinity') as is_within_reach,
        false as is_in_ledger,
        null::text as error_message,
        null::timestamptz as confirmed_at
    from holes
),

calendar as (
    select * from known
    union all
    select * from unknown
),

timed as (
    select
        *,
        greatest(extracted_at, confirmed_at) as last_read_at,
        (usage_date + 1)::timestamp at time zone 'UTC' + settle as settles_at,
        coverage in ('provisional', 'missing', 'failed') and is_within_reach as is_expected_to_change
    from calendar
)

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
    record_count,
    is_counted,
    case
        when coverage = 'final' then 'Read completely after the provider had settled it.'
        when coverage = 'confirmed_zero' then 'The provider was asked after it had settled the day, and had nothing.'
        when coverage = 'provisional' and not is_within_reach
            then 'Read completely before the provider had settled it; it is not read any more.'
        when coverage = 'provisional' and settles_at > now()
            then 'Read completely; the provider may still change it.'
        when coverage = 'provisional' then 'Read completely; nobody has seen it settled yet.'
        when coverage = 'outside_retention' then 'Never loaded, and the provider can no longer tell.'
        when coverage = 'not_entitled' then coalesce(error_message, 'The plan of the account does not include it.')
        when coverage = 'failed' then coalesce(error_message, 'The last attempt to read it failed.')
        when not is_in_ledger and is_within_reach then 'No reading of this day has reached the marts yet.'
        when not is_in_ledger then 'No run has read this day, and its source is not read any more.'
        else coalesce(error_message, 'Expected, and no attempt to read it has ended yet.')
    end as reason,
    extracted_at,
    last_read_at,
    round(extract(epoch from now() - last_read_at) / 3600, 1) as age_hours,
    is_expected_to_change,
    case
        when is_expected_to_change and is_loaded and settles_at > now() then settles_at
        when is_expected_to_change and not is_loaded
            then (usage_date + retention_days)::timestamp at time zone 'UTC'
    end as expected_to_change_until
from timed
