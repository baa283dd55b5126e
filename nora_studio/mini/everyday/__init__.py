"""A small everyday world: its facts, texts about them, and commonsense questions."""
