"""The request log: what was asked and answered."""
