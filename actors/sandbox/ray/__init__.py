"""Sandboxes as Ray's own (`ray.experimental.sandbox`): gVisor without a container engine."""
