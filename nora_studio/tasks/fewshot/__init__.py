"""CLIP few-shot classification: adapt an open_clip model to a few images of each class."""
