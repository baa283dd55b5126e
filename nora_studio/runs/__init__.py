"""The run folder: files written safely, lock, status, log, history, processes, and how they end."""
