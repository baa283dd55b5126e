"""Commonsense questions for language models, by the protocol of LLM-Adapters."""
