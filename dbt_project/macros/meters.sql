{#
    The meters, in the order of the marts. They never overlap: every token, call or second is in one of them. A provider
    gives some; what it does not give stays NULL.
#}
{% macro meters() %}
    {{ return([
        'requests', 'uncached_input_tokens', 'cache_read_tokens', 'cache_write_tokens', 'unsplit_input_tokens',
        'output_tokens', 'output_images', 'client_errors', 'server_errors', 'throttled_requests', 'compute_seconds',
        'api_calls',
    ]) }}
{% endmacro %}
