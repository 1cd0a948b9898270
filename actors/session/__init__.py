"""Agent sessions: a few hosts own many sessions by lease and run their turns."""
