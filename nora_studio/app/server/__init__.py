"""What the web app stands on, without a widget: visitors' folders, uploads, jobs, drawings."""
