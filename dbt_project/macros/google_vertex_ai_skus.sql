{#
    What the texts of Google's SKUs mean: data, not code. Each list is read from the top, the first pattern that is found in
    the text decides. Texts are matched in lower case, dashes of any length as `-`, white space as one space, without the
    word `GA`. Patterns are PostgreSQL's; [[:<:]] and [[:>:]] are the beginning and the end of a word.

    After a change here, `dbt build --full-refresh` reads all of history with the new rules; without it, days that are
    loaded from then on are read with them.
#}
{% macro google_vertex_ai_sku_rules() %}
    {{ return({
        'kind': [
            ['cach.*[[:<:]]storage[[:>:]]|token hours?', 'cache_storage'],
            ['[[:<:]](training|tuning)[[:>:]]', 'training'],
            ['provisioned throughput', 'provisioned_throughput'],
            ['[[:<:]]grounding[[:>:]]', 'tool_requests'],
            ['[[:<:]]characters?[[:>:]]', 'characters'],
            ['[[:<:]]gemini 1[.]', 'unclear'],
            ['^imagen .*[[:<:]]generation', 'images'],
            ['^veo ', 'video'],
            ['cache writ.*(3600 seconds|1[- ]hour)|1[- ]hour cache writ', 'cache_write_1h'],
            ['cache writ.*([^0-9]300 seconds|5[- ]min)|5[- ]min[a-z]* cache writ', 'cache_write_5m'],
            ['cache writ', 'cache_write'],
            ['cache read|[[:<:]]cach(ing|ed)[[:>:]]', 'cache_read'],
            ['[[:<:]]input token count', 'input'],
            ['[[:<:]]output token count', 'output'],
            ['^vertex ai: ', 'platform'],
            ['^(?!.*[[:<:]]output[[:>:]].*[[:<:]]input[[:>:]]).*[[:<:]]input[[:>:]]', 'input'],
            ['[[:<:]]output[[:>:]]', 'output'],
        ],
        'model': [
            ['[[:<:]]gemini [0-9.]+ ?/ ?[0-9.]+', none],
            ['[[:<:]]flash image (?!image|input|output)', none],
            ['[[:<:]](gemini-embedding-[0-9]+)', 1],
            ['[[:<:]](gemini [0-9]+(?:[.][0-9]+)? (?:pro|flash lite|flash|ultra)(?: image(?= image))?)[[:>:]]', 1],
            ['^(claude .+?)(?: - | [0-9]+[- ](?:min|hour)| (?:input|output|cache|batch)[[:>:]]|$)', 1],
            ['^cloud vertex ai model garden model as a service (.+?) (?:batch|cached?|text|input|output)[[:>:]]', 1],
            [
                '^((?:codestral|deepseek|gemma|glm|gpt-oss|grok|jamba|kimi|llama|minimax|mistral|qwen).*?)'
                ~ '(?: - | (?:batch|cached?|text|input|output)[[:>:]])',
                1,
            ],
            ['^(imagen [0-9]+(?: (?:fast|ultra))?)[[:>:]]', 1],
            ['^(veo [0-9]+(?:[.][0-9]+)?(?: (?:fast|lite))?)[[:>:]]', 1],
            ['^(translation llm)[[:>:]]', 1],
        ],
        'modality': [
            ['[[:<:]]audio[[:>:]]', 'audio'],
            ['[[:<:]]video[[:>:]]|^veo ', 'video'],
            ['[[:<:]]image[[:>:]]|^imagen ', 'image'],
            ['[[:<:]]document[[:>:]]', 'document'],
            ['[[:<:]]text[[:>:]]', 'text'],
        ],
        'tier': [
            ['[[:<:]]batch[[:>:]]', 'batch'],
            ['[[:<:]]flex[[:>:]]', 'flex'],
            ['[[:<:]]priority[[:>:]]', 'priority'],
        ],
        'context': [
            ['[[:<:]]long[[:>:]]|context window size from [1-9]', 'long'],
        ],
        'endpoint': [
            ['[[:<:]]global[[:>:]]', 'global'],
        ],
    }) }}
{% endmacro %}

{# Kind → the meter that its amounts go to. Kinds that are not here are known, and no meter counts them. #}
{% macro google_vertex_ai_meters() %}
    {{ return({
        'input': 'uncached_input_tokens',
        'output': 'output_tokens',
        'cache_read': 'cache_read_tokens',
        'cache_write_5m': 'cache_write_5m_tokens',
        'cache_write_1h': 'cache_write_1h_tokens',
        'cache_write': 'cache_write_tokens',
        'images': 'output_images',
        'characters': 'characters',
        'tool_requests': 'server_tool_requests',
    }) }}
{% endmacro %}

{# What the first matching rule of a list says about `text`: its value, or the part of the text in the pattern's brackets. #}
{% macro google_vertex_ai_read(aspect) -%}
    case
        {% for pattern, value in google_vertex_ai_sku_rules()[aspect] -%}
            when text ~ '{{ pattern }}' then {{
                'null' if value is none else "substring(text from '" ~ pattern ~ "')" if value == 1 else "'" ~ value ~ "'"
            }}
        {% endfor -%}
    end
{%- endmacro %}
