"""`nora-studio runs`: list, show, compare, delete, restore and continue runs."""
