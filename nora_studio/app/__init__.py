"""The web app: its server (`server`) and its pages (`pages`)."""
