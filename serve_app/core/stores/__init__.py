"""Stores beside the database, one file a vendor: object storage and live events."""
