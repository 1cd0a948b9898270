"""Connectors: services a sandbox may call without ever holding the secret."""
