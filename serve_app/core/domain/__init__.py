"""What AetherOS talks about: ids, callers, sessions, events, creations. No I/O."""
