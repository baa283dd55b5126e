"""One module a command: its options, and what it does; quick to import, so that `--help` is."""
