"""The trainer's options in groups, each with what is refused; `config.py` puts them together."""
