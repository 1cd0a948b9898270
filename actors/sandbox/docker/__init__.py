"""Sandboxes as Docker containers: with runc on the host's kernel, or with gVisor's runsc on a kernel of their own."""
