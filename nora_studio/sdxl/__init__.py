"""SDXL: loading and quantising a base, encoding, the diffusion process, losses, generation."""
