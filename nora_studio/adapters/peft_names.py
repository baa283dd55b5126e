"""What PEFT calls things, in files and on models."""

PEFT_PREFIX = "base_model.model."
"""Of every key in a PEFT file but those of shared state ("base_model.vera_A");
`PeftModel.from_pretrained` silently skips keys without it."""
ADAPTER_NAME = "default"
"""PEFT's own name for the first adapter on a model, and ours for the only one."""
