"""Notebook widgets: pick a commit and a date, boot a machine, build, record."""
