"""Limits, reservations and the health of provider keys: counted once for all replicas."""
