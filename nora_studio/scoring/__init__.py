"""Scoring and comparing images: CLIP, DINO, statistics, grids, tables and reports."""
