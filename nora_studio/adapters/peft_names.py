"""Names that PEFT uses in files and on models."""

PEFT_PREFIX = "base_model.model."
"""Prefix of every key in a PEFT file, except those of shared state ("base_model.vera_A");
`PeftModel.from_pretrained` silently skips keys without it."""
ADAPTER_NAME = "default"
"""PEFT's default adapter name, and the name of every adapter that this project attaches."""
