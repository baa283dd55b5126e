"""The run folder: files written safely, its lock, status, log and history; processes, signals."""
