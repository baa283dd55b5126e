"""Pretraining of the embedded miniature SDXL, its scoring CLIP and the miniature LLaMA."""
