"""The web app without widgets: visitors' folders, uploads, jobs and image jobs."""
