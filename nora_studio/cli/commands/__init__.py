"""One module for each command, with its options; quick to import, so that `--help` is quick."""
