"""The web app's pages, one file per tab, which start the commands that a person would type."""
