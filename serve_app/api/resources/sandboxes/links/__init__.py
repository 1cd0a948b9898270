"""WebSockets into a sandbox: terminals and its ports."""
