"""The web app's pages: one file a tab. It starts the same commands a person would type."""
