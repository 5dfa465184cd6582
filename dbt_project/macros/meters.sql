{#
    The common shape. Every provider's stg_<provider>__meters has these columns:

        connection_id, stream, scope            the slice, from stg_ops__slices
        account_id, region                      text, NULL where the scope tells
        raw_model_id                            text, never NULL
        endpoint                                text, NULL where the provider has one only
        project_id, project_name                text, NULL where the provider has none: project, workspace
        credential_id                           text, NULL where not told: the id of an API key, never a key
        service_tier                            text, NULL where not told: as the provider calls it (batch, flex, …)
        meter, quantity                         one of meters(), and how much of it: numeric, never NULL
        currency                                text: ISO 4217 on the meters billed_cost and credits, NULL on all others
        usage_date                              date
#}

{#
    The meters. They never overlap: every token, call, second or cent is in one of them. A provider gives some; what it
    does not give is no row. Of what is written to a cache, cache_write_tokens is the part whose lifetime is not told.
    The sampled ones are estimates from live rates, of sampled_seconds of a day only: they are in usage_daily_detail, in rows
    of their own, and in no sum of what was counted.
#}
{% macro meters() %}
    {{ return([
        'requests', 'uncached_input_tokens', 'cache_read_tokens', 'cache_write_5m_tokens', 'cache_write_1h_tokens',
        'cache_write_tokens', 'unsplit_input_tokens', 'output_tokens', 'output_images', 'audio_seconds', 'characters',
        'server_tool_requests', 'stored_bytes', 'client_errors', 'server_errors', 'throttled_requests',
        'compute_seconds', 'api_calls', 'sampled_seconds', 'sampled_requests', 'sampled_uncached_input_tokens',
        'sampled_cache_read_tokens', 'billed_cost', 'credits',
    ]) }}
{% endmacro %}

{# The measures of usage_daily_detail, in its order. #}
{% macro detail_measures() %}
    {{ return([
        'requests', 'input_tokens', 'uncached_input_tokens', 'cache_read_tokens', 'cache_write_tokens',
        'cache_write_5m_tokens', 'cache_write_1h_tokens', 'unsplit_input_tokens', 'output_tokens', 'output_images',
        'audio_seconds', 'characters', 'server_tool_requests', 'stored_bytes', 'client_errors', 'server_errors',
        'throttled_requests', 'compute_seconds', 'api_calls', 'sampled_seconds', 'sampled_requests',
        'sampled_uncached_input_tokens', 'sampled_cache_read_tokens', 'billed_cost', 'credits', 'net_cost',
    ]) }}
{% endmacro %}

{# The measures of usage_daily, in its order. #}
{% macro daily_measures() %}
    {{ return([
        'requests', 'input_tokens', 'uncached_input_tokens', 'cache_read_tokens', 'cache_write_tokens', 'output_tokens',
        'output_images', 'audio_seconds', 'characters', 'server_tool_requests', 'stored_bytes', 'compute_seconds',
        'api_calls', 'billed_cost', 'credits', 'net_cost',
    ]) }}
{% endmacro %}

{# The meters that a measure of the marts is the sum of, as a list in SQL. #}
{% macro meters_of(measure) -%}
    {%- if measure == 'input_tokens' -%}
        'uncached_input_tokens', 'cache_read_tokens', 'cache_write_5m_tokens', 'cache_write_1h_tokens',
        'cache_write_tokens', 'unsplit_input_tokens'
    {%- elif measure == 'cache_write_tokens' -%}
        'cache_write_5m_tokens', 'cache_write_1h_tokens', 'cache_write_tokens'
    {%- else -%}
        '{{ measure }}'
    {%- endif -%}
{%- endmacro %}

{# A measure of a group of meters. There is a net cost only where the provider tells of credits, be they zero. #}
{% macro measure_of(measure) -%}
    {%- if measure == 'net_cost' -%}
        sum(quantity) filter (where meter = 'billed_cost') + sum(quantity) filter (where meter = 'credits')
    {%- else -%}
        sum(quantity) filter (where meter in ({{ meters_of(measure) }}))
    {%- endif -%}
{%- endmacro %}

{# What tells the rows of one slice apart in usage_daily_detail; the currency does too. #}
{% macro detail_dimensions() %}
    {{ return([
        'account_id', 'region', 'endpoint', 'project_id', 'credential_id', 'service_tier', 'raw_model_id',
    ]) }}
{% endmacro %}

{#
    The currency of a row. Money of two currencies is never added up: each has a row of its own. What carries no money
    goes with the first of them, so that the usual case, one currency, is one row with usage and cost.
#}
{% macro own_or_first_currency(column, group) -%}
    coalesce({{ column }}, min({{ column }}) over (partition by {{ group | join(', ') }}))
{%- endmacro %}

{# What a provider sells: ai, or api. #}
{% macro category_of(column) -%}
    {%- set others = var('api_providers') -%}
    {%- if others -%}
        case when {{ column }} in ('{{ others | join("', '") }}') then 'api' else 'ai' end
    {%- else -%}
        'ai'::text
    {%- endif -%}
{%- endmacro %}
