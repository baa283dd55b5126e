"""The options: their groups, defaults, ranges, files, command line and page."""
