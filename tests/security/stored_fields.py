"""
What raw records hold inside of their fields, looked at by a person: every key that may stand below a field of a stream.

Written as paths; ``[]`` stands for an item of a list.
"""

from __future__ import annotations

from collections.abc import Mapping

NUMBERS: Mapping[str, str] = {
    "anthropic_usage": """
        cache_creation.ephemeral_1h_input_tokens cache_creation.ephemeral_5m_input_tokens
        server_tool_use.web_search_requests
    """,
    "aws_bedrock_metrics": """
        metrics.CacheReadInputTokenCount metrics.CacheReadInputTokens metrics.CacheWriteInputTokenCount
        metrics.CacheWriteInputTokens metrics.InferenceClientErrors metrics.Inferences metrics.InputTokenCount
        metrics.InvocationClientErrors metrics.InvocationServerErrors metrics.InvocationThrottles metrics.Invocations
        metrics.OutputImageCount metrics.OutputTokenCount metrics.TotalInputTokens metrics.TotalOutputTokens
    """,
    "azure_openai_metrics": "series[].total",
    "fireworks_usage": "totalCost.nanos totalCost.units",
    "fireworks_costs": "dimensions.unknownModel subtotal.nanos subtotal.units",
    "google_vertex_ai_costs": """
        credits_by_type.COMMITTED_USAGE_DISCOUNT credits_by_type.COMMITTED_USAGE_DISCOUNT_DOLLAR_BASE
        credits_by_type.DISCOUNT credits_by_type.FEE_UTILIZATION_OFFSET credits_by_type.FREE_TIER
        credits_by_type.OTHER credits_by_type.PROMOTION credits_by_type.RESELLER_MARGIN
        credits_by_type.SUBSCRIPTION_BENEFIT credits_by_type.SUSTAINED_USAGE_DISCOUNT
    """,
    "groq_usage": """
        requests[].points requests[].rate_sum tokens_in.points tokens_in.rate_sum tokens_out.points tokens_out.rate_sum
    """,
    "openai_costs": "amount.value",
    "openrouter_activity": """
        by_key[].byok_usage_inference by_key[].completion_tokens by_key[].prompt_tokens by_key[].reasoning_tokens
        by_key[].requests by_key[].usage
    """,
    "replicate_predictions": "metrics.input_token_count metrics.output_token_count metrics.predict_time",
    "replicate_trainings": "metrics.input_token_count metrics.output_token_count metrics.predict_time",
}
"""Paths of numbers and flags."""

NAMES: Mapping[str, str] = {
    "azure_openai_metrics": """
        deployed.format deployed.model deployed.sku deployed.version
        series[].metric series[].model_name series[].model_version series[].region series[].status
    """,
    "fireworks_usage": """
        group.accelerator_type group.base_model group.deployment_name group.job_id group.job_type group.model_name
        group.usage_type totalCost.currencyCode
    """,
    "fireworks_costs": "dimensions.model dimensions.startTime subtotal.currencyCode",
    "groq_usage": "requests[].status_code",
    "openai_costs": "amount.currency",
    "openrouter_activity": "by_key[].api_key_hash by_key[].api_key_name",
}
"""Paths of names, ids and moments."""
