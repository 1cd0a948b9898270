"""Snapshots: their formats, and what hostile sandboxes and damaged stores make of them."""
