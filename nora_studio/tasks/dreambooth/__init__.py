"""DreamBooth on SDXL: one subject learned from a handful of photos."""
