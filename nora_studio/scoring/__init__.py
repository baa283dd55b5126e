"""Judge and compare pictures: CLIP, DINO, statistics, grids, tables and reports."""
