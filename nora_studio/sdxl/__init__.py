"""SDXL: load a base, quantise it, encode, the diffusion process and its losses, generate."""
