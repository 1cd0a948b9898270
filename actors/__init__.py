"""Things that stay alive: agent sessions."""
