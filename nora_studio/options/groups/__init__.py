"""The trainer's options in groups, each with its checks; `config.py` combines them."""
