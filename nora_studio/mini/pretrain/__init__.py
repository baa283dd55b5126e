"""From-scratch pretraining of the embedded miniature SDXL and its scoring CLIP on the toy world."""
