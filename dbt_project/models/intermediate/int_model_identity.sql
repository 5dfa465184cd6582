{{
    config(
        incremental_strategy='append',
        indexes=[{'columns': ['provider']}],
        pre_hook='{{ hold_target() }}',
        post_hook='{{ analyse_new_table() }}',
    )
}}

-- What an id says about a model depends on the id alone, so an id is resolved once and its row never changes. The steps
-- are materialized because each uses the one before several times: merged, the last would be thousands of expressions.
with

met as (
    select distinct
        provider,
        raw_model_id
    from {{ ref('int_usage_meters') }}
    {{ only_changed(['connection_id', 'usage_date']) }}
),

new_ids as (
    select
        provider,
        raw_model_id,
        lower(btrim(raw_model_id)) as id,
        substring(lower(raw_model_id) from '^\s*arn:aws[a-z-]*:bedrock:[a-z0-9-]*:[0-9]*:([a-z-]+)/') as arn_kind
    from met
    {% if is_incremental() %}
        where not exists (
            select
            from {{ this }} as known
            where known.provider = met.provider and known.raw_model_id = met.raw_model_id
        )
    {% endif %}
),

-- The ARN of a model that AWS offers ends in its id; every other ARN names something of the account's own.
unwrapped as (
    select
        *,
        case
            when arn_kind in ('foundation-model', 'inference-profile') then regexp_replace(id, '^[^/]*/', '')
            else id
        end as name
    from new_ids
),

kinds as materialized (
    select
        *,
        -- A prefix is a route only if a vendor follows it: zai.glm-4.6 is a model of zai. New regions bring new ones.
        substring(name from '^(us-gov|global|apac|[a-z]{2,3})\.[a-z][a-z0-9]{2,}\.[a-z]') as routing_scope,
        case
            -- A resource, whose last word may well be one that a model begins with.
            when provider = 'authress' then 'unknown'
            -- Fireworks: whatever is not in its own account is a customer's, however it is called.
            when name ~ '^accounts/' and name !~ '^accounts/fireworks/' then 'custom_deployment'
            when arn_kind = 'application-inference-profile' then 'application_profile'
            when arn_kind in ('custom-model', 'custom-model-deployment') then 'custom_deployment'
            when arn_kind = 'imported-model' then 'imported'
            when arn_kind = 'provisioned-model' then 'provisioned'
            when arn_kind is null and id like 'arn:%' then 'unknown'
            when arn_kind not in ('foundation-model', 'inference-profile') then 'unknown'
            when provider = 'aws_bedrock' and name ~ '^[a-z0-9]{12}$' then 'application_profile'
            when name like 'ft:%' then 'custom_deployment'
        end as private_kind
    from unwrapped
),

routed as materialized (
    select
        *,
        case when routing_scope is null then name else substr(name, length(routing_scope) + 2) end as address
    from kinds
),

-- Three ways to write a model: developer/name (possibly inside a longer path), developer.name, or the name alone.
split as materialized (
    select
        *,
        case
            when address ~ '^publishers/[^/]+/' then split_part(address, '/', 2)
            when address ~ '^(accounts|models|projects)/' then null
            when address ~ '^[^/]+/[^/]+$' then split_part(address, '/', 1)
            when address !~ '/' then substring(address from '^([a-z][a-z0-9]+)\.[a-z]')
        end as written_developer,
        case
            when address ~ '/' then regexp_replace(address, '^.*/', '')
            else regexp_replace(address, '^[a-z][a-z0-9]+\.([a-z])', '\1')
        end as written_name
    from routed
),

-- Hosting suffixes: `@20250929` (Vertex), `:free` (OpenRouter), `-v1:0` and `:0:200k` (Bedrock). A version other than
-- v1 is part of the model's name, unless it only counts the snapshots of one.
without_suffix as materialized (
    select
        *,
        regexp_replace(
            regexp_replace(
                regexp_replace(
                    regexp_replace(
                        replace(regexp_replace(written_name, '@(default|latest)$', ''), '@', '-'),
                        ':[a-z]+$', ''
                    ),
                    '-v0:([0-9]+)(:[0-9a-z]+)*$', '-v0-\1'
                ),
                '(-1)?(:[0-9]+)(:[0-9a-z]+)*$', ''
            ),
            '(-v1|-latest)$', ''
        ) as undressed_name
    from split
),

dated as materialized (
    select
        *,
        substring(
            undressed_name from '-(20[0-9]{2}-?(0[1-9]|1[0-2])-?(0[1-9]|[12][0-9]|3[01]))(?:-v[0-9]+)?$'
        ) as snapshot
    from without_suffix
),

normal as materialized (
    select
        *,
        regexp_replace(
            regexp_replace(
                regexp_replace(
                    replace(
                        regexp_replace(
                            undressed_name,
                            '-20[0-9]{2}-?(0[1-9]|1[0-2])-?(0[1-9]|[12][0-9]|3[01])(-v[0-9]+)?$', ''
                        ),
                        '.', '-'
                    ),
                    -- Fireworks writes 3.1 as 3p1.
                    '([0-9])p([0-9])', '\1-\2', 'g'
                ),
                -- llama3, llama-3, llama-v3 and meta-llama-3 are one.
                '^(meta-)?llama-?v?([0-9])', 'llama\2'
            ),
            -- Bedrock leaves the first half of deepseek-r1 to the vendor.
            '^([rv][0-9])', case when written_developer = 'deepseek' then 'deepseek-' else '' end || '\1'
        ) as model_name
    from dated
),

developers as materialized (
    select
        *,
        coalesce(
            case written_developer
                when 'meta-llama' then 'meta'
                when 'mistralai' then 'mistral'
                when 'moonshot' then 'moonshotai'
                when 'x-ai' then 'xai'
                when 'z-ai' then 'zai'
                when 'deepseek-ai' then 'deepseek'
                when 'stability-ai' then 'stability'
                when 'stabilityai' then 'stability'
                else written_developer
            end,
            case
                when model_name ~ '^claude' then 'anthropic'
                when model_name ~ '^(gpt|chatgpt|codex|o[0-9]|omni|text-embedding)' then 'openai'
                when model_name ~ '^(dall-e|sora|tts|whisper)' then 'openai'
                when model_name ~ '^(gemini|gemma|imagen|veo)' then 'google'
                when model_name ~ '^llama' then 'meta'
                when model_name ~ '^(mistral|mixtral|ministral|magistral)' then 'mistral'
                when model_name ~ '^(codestral|devstral|pixtral|voxtral)' then 'mistral'
                when model_name ~ '^deepseek' then 'deepseek'
                when model_name ~ '^(qwen|qwq)' then 'qwen'
                when model_name ~ '^kimi' then 'moonshotai'
                when model_name ~ '^grok' then 'xai'
                when model_name ~ '^(nova|titan)' then 'amazon'
                when model_name ~ '^(command|aya)' then 'cohere'
                when model_name ~ '^glm' then 'zai'
            end
        ) as known_developer
    from normal
),

resolved as (
    select
        *,
        private_kind is null
        and known_developer ~ '^[a-z0-9][a-z0-9_-]*$'
        and model_name ~ '^[a-z0-9][a-z0-9_-]*$' as is_resolved
    from developers
)

select
    provider,
    raw_model_id,
    is_resolved is true as is_resolved,
    case when is_resolved then known_developer || '/' || model_name else raw_model_id end as model,
    case when is_resolved then known_developer end as developer,
    case when is_resolved then model_name end as model_name,
    case when is_resolved then substring(model_name from '^[a-z]+') end as model_family,
    case
        when is_resolved
            then replace(
                substring(model_name from '(?:^[a-z]+|-|-v)([0-9]{1,2}(?:o|-[0-9]{1,2})?)(?:-|$)'), '-', '.'
            )
    end as model_version,
    case
        when is_resolved
            -- Added up, because a day that does not exist (the 31st of June) must not stop a build.
            then to_date(substr(replace(snapshot, '-', ''), 1, 6), 'YYYYMM') + (right(snapshot, 2)::integer - 1)
    end as snapshot_date,
    case when private_kind is null then routing_scope end as routing_scope,
    coalesce(
        private_kind,
        case
            when is_resolved and routing_scope is not null then 'cross_region'
            when is_resolved then 'foundation'
            else 'unknown'
        end
    ) as endpoint_kind
from resolved
