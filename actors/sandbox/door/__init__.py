"""The way into a sandbox: the protocol as the host speaks it, with nothing trusted that comes out."""
