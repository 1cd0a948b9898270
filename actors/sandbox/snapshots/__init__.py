"""Workspaces kept as snapshots: content-addressed, incremental, verified, whole or not at all."""
