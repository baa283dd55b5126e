"""`nora-studio runs`: list, show, compare, throw away and go on with runs."""
