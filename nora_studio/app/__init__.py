"""The web app: what serves it (`server`) and its pages (`pages`)."""
