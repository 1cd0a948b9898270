"""Creations: list, read, download, open."""
