"""Adapters: all methods, the PEFT tuners of this project, and adapter files."""
