"""Adapters: every method, tuners of our own, and every adapter file."""
