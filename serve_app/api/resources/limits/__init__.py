"""Limits: how fast a scope may call models."""
