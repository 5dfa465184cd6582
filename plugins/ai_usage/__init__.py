"""
AI usage ELT: read usage from AI providers, land it unchanged in PostgreSQL, turn it into daily facts.

Imports point one way: ``dags → orchestration → providers, warehouse → core``.
"""
