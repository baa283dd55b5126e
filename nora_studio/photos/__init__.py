"""Photo files to pixels, captions, masks and buckets, and what is wrong with them."""
