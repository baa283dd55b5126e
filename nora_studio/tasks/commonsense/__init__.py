"""Commonsense questions for language models: the protocol of LLM-Adapters on this core."""
