"""The `nora-studio` command and its subcommands."""
