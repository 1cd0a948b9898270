"""The doubles do what the tests that use them take for granted."""
