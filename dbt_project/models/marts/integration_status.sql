{{ config(materialized='view') }}

-- Live: it reads the ledger itself, by index, and a provider that was never connected has a row as well.
with

-- Whoever is planned late by so much, and has not been read meanwhile either, is not being asked.
clock as (
    select
        now() as present,
        (now() at time zone 'UTC')::date as today,
        interval '1 hour' as grace
),

providers as (
    select * from {{ ref('stg_ops__providers') }}
),

connections as (
    select
        providers.provider,
        providers.label,
        connections.connection_id,
        connections.account_id,
        connections.account_name,
        connections.first_seen_at,
        connections.disconnected_at,
        connections.last_success_at,
        connections.last_attempt_at,
        case when connections.disconnected_at is null then providers.next_run_at end as next_expected_at,
        connections.disconnected_at is null
        and coalesce(
            clock.present
            > greatest(providers.next_run_at, connections.last_attempt_at, connections.last_success_at) + clock.grace
            and providers.next_run_at is not null,
            false
        ) as is_late
    from {{ ref('stg_ops__connections') }} as connections
    inner join providers on connections.provider = providers.provider
    cross join clock
),

scopes as (
    select
        *,
        -- All scopes of one look have the same time; one that was taken out of the connection has an older one.
        rank() over (partition by connection_id order by last_seen_at desc) = 1 as is_current
    from {{ ref('stg_ops__scopes') }}
),

open_problems as (
    select * from {{ ref('stg_ops__problems') }}
    where resolved_at is null
),

-- What cannot be read of a scope, and whether anything else of it was read in the run that met the problem, or since.
unread as (
    select
        open_problems.connection_id,
        open_problems.scope,
        open_problems.kind,
        open_problems.opened_at,
        exists(
            select 1
            from {{ ref('stg_ops__streams') }} as streams
            inner join {{ ref('stg_ops__extractions') }} as extractions
                on
                    streams.stream = extractions.stream
                    and extractions.connection_id = open_problems.connection_id
                    and extractions.scope = open_problems.scope
                    and extractions.started_at > open_problems.last_seen_at - interval '1 day'
            where
                streams.provider = open_problems.provider
                and extractions.outcome in ('loaded', 'unchanged')
                and (
                    extractions.run_id = open_problems.last_seen_run_id
                    or extractions.started_at > open_problems.last_seen_at
                )
        ) as is_read_beside
    from open_problems
    where open_problems.topic = 'reading' and open_problems.scope is not null
),

unread_scopes as (
    select
        connection_id,
        scope,
        case
            when bool_or(is_read_beside) then 'degraded'
            when bool_and(kind = 'not_entitled') then 'not_entitled'
            else 'failing'
        end as state,
        min(opened_at) as since
    from unread
    group by connection_id, scope
),

unread_connections as (
    select
        connection_id,
        case when bool_and(kind = 'not_entitled') then 'not_entitled' else 'failing' end as state,
        min(opened_at) as since
    from open_problems
    where topic = 'reading' and scope is null
    group by connection_id
),

scope_states as (
    select
        scopes.connection_id,
        scopes.scope,
        scopes.account_id,
        scopes.account_name,
        scopes.region,
        scopes.first_seen_at,
        coalesce(unread_connections.state, unread_scopes.state, 'connected') as state,
        coalesce(unread_connections.since, unread_scopes.since) as since,
        (
            select max(last_ones.started_at)
            from {{ ref('stg_ops__streams') }} as streams
            cross join
                lateral (
                    select extractions.started_at
                    from {{ ref('stg_ops__extractions') }} as extractions
                    where
                        extractions.connection_id = scopes.connection_id
                        and extractions.stream = streams.stream
                        and extractions.scope = scopes.scope
                    order by extractions.started_at desc
                    limit 1
                ) as last_ones
            where streams.provider = connections.provider
        ) as last_attempt_at,
        (
            select max(last_ones.finished_at)
            from {{ ref('stg_ops__streams') }} as streams
            cross join
                lateral (
                    select extractions.finished_at
                    from {{ ref('stg_ops__extractions') }} as extractions
                    where
                        extractions.connection_id = scopes.connection_id
                        and extractions.stream = streams.stream
                        and extractions.scope = scopes.scope
                        and extractions.outcome in ('loaded', 'unchanged')
                    order by extractions.started_at desc
                    limit 1
                ) as last_ones
            where streams.provider = connections.provider
        ) as last_success_at,
        (
            select loads.usage_date
            from {{ ref('stg_ops__loads') }} as loads
            inner join {{ ref('stg_ops__streams') }} as streams
                on loads.provider = streams.provider and loads.stream = streams.stream and streams.is_usage
            where
                loads.connection_id = scopes.connection_id
                and loads.scope = scopes.scope
                and loads.superseded_by is null
                and loads.record_count > 0
            order by loads.usage_date desc
            limit 1
        ) as newest_usage_date,
        (
            select coalesce(sum(loads.record_count), 0)
            from {{ ref('stg_ops__loads') }} as loads
            inner join {{ ref('stg_ops__streams') }} as streams
                on loads.provider = streams.provider and loads.stream = streams.stream and streams.is_usage
            where
                loads.connection_id = scopes.connection_id
                and loads.scope = scopes.scope
                and loads.superseded_by is null
                and loads.record_count > 0
                and loads.usage_date > clock.today - 30
        ) as usage_rows_30d
    from scopes
    inner join connections on scopes.connection_id = connections.connection_id
    left join unread_connections on scopes.connection_id = unread_connections.connection_id
    left join unread_scopes
        on scopes.connection_id = unread_scopes.connection_id and scopes.scope = unread_scopes.scope
    cross join clock
    where scopes.is_current
),

connection_states as (
    select
        connections.connection_id,
        coalesce(
            max(unread_connections.state),
            case
                when count(scope_states.scope) = 0 or bool_and(scope_states.state = 'connected') then 'connected'
                when bool_and(scope_states.state = 'not_entitled') then 'not_entitled'
                when bool_and(scope_states.state in ('failing', 'not_entitled')) then 'failing'
                else 'degraded'
            end
        ) as state,
        coalesce(max(unread_connections.since), min(scope_states.since)) as since,
        max(scope_states.newest_usage_date) as newest_usage_date,
        coalesce(sum(scope_states.usage_rows_30d), 0) as usage_rows_30d
    from connections
    left join unread_connections on connections.connection_id = unread_connections.connection_id
    left join scope_states on connections.connection_id = scope_states.connection_id
    group by connections.connection_id
),

places as (
    select
        connections.provider,
        connections.label,
        connections.connection_id,
        null as scope,
        connections.account_id,
        connections.account_name,
        null as region,
        connections.first_seen_at,
        connections.disconnected_at,
        connection_states.state,
        connection_states.since,
        connections.last_success_at,
        connections.last_attempt_at,
        connections.next_expected_at,
        connections.is_late,
        connection_states.usage_rows_30d,
        connection_states.newest_usage_date
    from connections
    inner join connection_states on connections.connection_id = connection_states.connection_id
    union all
    select
        connections.provider,
        connections.label,
        connections.connection_id,
        scope_states.scope,
        scope_states.account_id,
        scope_states.account_name,
        scope_states.region,
        scope_states.first_seen_at,
        connections.disconnected_at,
        scope_states.state,
        scope_states.since,
        scope_states.last_success_at,
        scope_states.last_attempt_at,
        connections.next_expected_at,
        connections.is_late,
        scope_states.usage_rows_30d,
        scope_states.newest_usage_date
    from connections
    inner join scope_states on connections.connection_id = scope_states.connection_id
),

told as (
    select
        places.*,
        counted.open_problems,
        worst.kind,
        worst.message,
        worst.action,
        counted.late_since,
        (
            select max(problems.resolved_at)
            from {{ ref('stg_ops__problems') }} as problems
            where
                problems.connection_id = places.connection_id
                and problems.topic in ('reading', 'lateness')
                and problems.resolution = 'recovered'
                and (places.scope is null or problems.scope is null or problems.scope = places.scope)
        ) as recovered_at
    from places
    cross join
        lateral (
            select
                count(*) filter (where places.scope is null or open_problems.scope is not null) as open_problems,
                min(open_problems.opened_at) filter (where open_problems.topic = 'lateness') as late_since
            from open_problems
            where
                open_problems.connection_id = places.connection_id
                and (places.scope is null or open_problems.scope is null or open_problems.scope = places.scope)
        ) as counted
    left join lateral (
        select
            open_problems.kind,
            open_problems.action,
            case
                when places.scope is null and open_problems.scope <> '-'
                    then
                        -- A sentence is one line without control characters; the name itself stays as it is in scope.
                        regexp_replace(
                            open_problems.scope,
                            '[\u0001-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]+', ' ', 'g'
                        )
                        || ': ' || open_problems.message
                else open_problems.message
            end as message
        from open_problems
        where
            open_problems.connection_id = places.connection_id
            and (
                places.scope is null
                or open_problems.scope = places.scope
                -- What keeps the whole connection from being read keeps the scope from it.
                or (open_problems.scope is null and open_problems.topic in ('reading', 'lateness'))
            )
        order by
            open_problems.severity = 'error' desc,
            array_position(array['reading', 'lateness', 'usage', 'schema'], open_problems.topic) asc nulls last,
            open_problems.scope is null desc,
            open_problems.opened_at asc,
            open_problems.problem_id asc
        limit 1
    ) as worst on true
),

judged as (
    select
        *,
        case
            when disconnected_at is not null then 'not_connected'
            when state = 'connected' and (is_late or late_since is not null) then 'degraded'
            else state
        end as final_state
    from told
)

select
    provider,
    label,
    connection_id,
    scope,
    account_id,
    account_name,
    region,
    final_state as state,
    case
        when final_state = 'not_connected' then disconnected_at
        when state <> 'connected' then since
        when final_state = 'degraded' then coalesce(late_since, next_expected_at)
        else coalesce(recovered_at, first_seen_at)
    end as since,
    last_success_at,
    last_attempt_at,
    next_expected_at,
    is_late,
    usage_rows_30d::bigint as usage_rows_30d,
    newest_usage_date,
    case
        when disconnected_at is not null then 'Airflow no longer names this connection as a source. Its history stays.'
        when state = 'connected' and is_late and late_since is null
            then
                'The sync that was due at '
                || to_char(next_expected_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC has not begun.'
        else message
    end as problem,
    case
        when disconnected_at is not null
            then 'Nothing, if that was meant; otherwise add it again under the same id, and what is missing is read.'
        when state = 'connected' and is_late and late_since is null
            then 'See in Airflow whether the DAG ' || provider || '_usage is paused, and whether the scheduler runs.'
        else action
    end as action,
    case
        when disconnected_at is not null then 'disconnected'
        when state = 'connected' and is_late and late_since is null then 'sync_late'
        else kind
    end as problem_kind,
    open_problems
from judged

union all

select
    provider,
    label,
    null as connection_id,
    null as scope,
    null as account_id,
    null as account_name,
    null as region,
    'not_connected' as state,
    null as since,
    null as last_success_at,
    null as last_attempt_at,
    null as next_expected_at,
    false as is_late,
    0 as usage_rows_30d,
    null as newest_usage_date,
    'There is no connection.' as problem,
    'Add the connection ' || provider || '_default in Airflow; docs/connections.md tells how.' as action,
    null as problem_kind,
    0 as open_problems
from providers
where provider not in (select connections.provider from connections)
