"""Bytes that may be forgotten at any time."""
