"""Stand-ins for what the platform calls, and clients of its own protocols, for tests."""
