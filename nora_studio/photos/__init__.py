"""Photo files: their pixels, captions, masks and aspect buckets, and checks for problems."""
