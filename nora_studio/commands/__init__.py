"""The commands of `nora-studio` that are more than a call: one module each."""
