"""Sessions: open one, post a message, follow what happens."""
