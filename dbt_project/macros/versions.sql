{#
    How int_slice_totals keeps up with the ledger. It holds what each loaded version of a slice came to, and loses nothing:
    not in a full refresh, and not when the raw records of a superseded version are pruned.
#}

{# The columns that a measurement takes from the ledger. #}
{% macro version_columns(alias) -%}
    {{ alias }}.provider, {{ alias }}.connection_id, {{ alias }}.stream, {{ alias }}.scope, {{ alias }}.load_id
{%- endmacro %}

{#
    Versions that came and went between two builds: no build has seen them, but their records are there. The staging views
    say what a record means, and they read the loads that stg_ops__slices names. So, inside this transaction alone, that
    table names the earlier version instead, the views are read, and the table is put back as it was. No other session
    sees any of it, and whatever ends the transaction early leaves nothing behind.

    A slice that changed several times is gone through version by version.
#}
{% macro measure_versions_between_builds() -%}
    {%- set slices = ref('stg_ops__slices') -%}
    {%- set key = ['connection_id', 'usage_date', 'stream', 'scope'] -%}
    {%- set shown = ['load_id', 'state', 'record_count', 'extracted_at'] -%}
    {%- set columns = [
        'provider', 'connection_id', 'stream', 'scope', 'load_id', 'measurement', 'meter', 'currency', 'quantity', 'state',
        'was_published', 'usage_date', 'extracted_at', 'loaded_at', 'measured_at',
    ] -%}
    do $measure$
    declare
        last_round bigint;
    begin
        create temporary table unseen_version on commit drop as
        select
            loads.*,
            row_number() over (
                partition by {% for name in key %}loads.{{ name }}{{ ', ' if not loop.last }}{% endfor %}
                order by loads.load_id
            ) as round
        from {{ ref('stg_ops__loads') }} as loads
        inner join {{ slices }} as slices
            on {% for name in key %}loads.{{ name }} = slices.{{ name }}{{ ' and ' if not loop.last }}{% endfor %}
        where
            loads.superseded_by is not null
            and loads.pruned_at is null
            and loads.load_id < slices.load_id
            {{ only_changed(['connection_id', 'usage_date'], 'loads', keyword='and') }}
            and not exists (select from {{ this }} as known where known.load_id = loads.load_id);

        select max(round) into last_round from unseen_version;

        if last_round is not null then
            analyze unseen_version;
            create temporary table slice_as_it_was on commit drop as
            select slices.*
            from {{ slices }} as slices
            inner join unseen_version as unseen
                on {% for name in key %}unseen.{{ name }} = slices.{{ name }}{{ ' and ' if not loop.last }}{% endfor %}
            where unseen.round = 1;

            for this_round in 1 .. last_round loop
                update {{ slices }} as slices
                set {% for name in shown %}{{ name }} = unseen.{{ name }}{{ ', ' if not loop.last }}{% endfor %}
                from unseen_version as unseen
                where
                    unseen.round = this_round
                    {% for name in key %}and unseen.{{ name }} = slices.{{ name }} {% endfor %};

                insert into {{ this }} ({{ columns | join(', ') }})
                select
                    {{ version_columns('unseen') }}, 1, 'records', null, unseen.record_count, unseen.state, false,
                    unseen.usage_date, unseen.extracted_at, unseen.loaded_at, now()
                from unseen_version as unseen
                where unseen.round = this_round;
                {% for provider in var('providers') %}
                    if exists (select from unseen_version where provider = '{{ provider }}' and round = this_round) then
                        insert into {{ this }} ({{ columns | join(', ') }})
                        select
                            {{ version_columns('unseen') }}, 1, totals.meter, totals.currency, totals.quantity,
                            unseen.state, false, unseen.usage_date, unseen.extracted_at, unseen.loaded_at, now()
                        from (
                            select
                                {{ key | join(', ') }}, meter, currency, sum(quantity) as quantity
                            from {{ ref('stg_' ~ provider ~ '__meters') }} as meters
                            where (meters.connection_id, meters.usage_date) in (
                                select connection_id, usage_date from unseen_version
                                where provider = '{{ provider }}' and round = this_round
                            )
                            group by {{ key | join(', ') }}, meter, currency
                        ) as totals
                        inner join unseen_version as unseen
                            on
                                unseen.round = this_round
                                {% for name in key %}and unseen.{{ name }} = totals.{{ name }} {% endfor %};
                    end if;
                {% endfor %}
            end loop;

            update {{ slices }} as slices
            set {% for name in shown %}{{ name }} = kept.{{ name }}{{ ', ' if not loop.last }}{% endfor %}
            from slice_as_it_was as kept
            where {% for name in key %}kept.{{ name }} = slices.{{ name }}{{ ' and ' if not loop.last }}{% endfor %};
        end if;
    end
    $measure$
{%- endmacro %}

{#
    What the ledger has learnt about known versions: a version settles without changing, and a purge, which alone removes
    rows from ops.load, takes the version's totals along.
#}
{% macro follow_the_ledger() -%}
    update {{ this }} as stored
    set state = loads.state
    from {{ ref('stg_ops__loads') }} as loads
    where
        stored.load_id = loads.load_id
        and stored.state <> loads.state
        {{ only_changed(['connection_id', 'usage_date'], 'stored', keyword='and') }};

    delete from {{ this }} as stored
    where
        not exists (select from {{ ref('stg_ops__loads') }} as loads where loads.load_id = stored.load_id)
        {{ only_changed(['connection_id', 'usage_date'], 'stored', keyword='and') }}
{%- endmacro %}
