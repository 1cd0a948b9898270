"""Which model answers a request under /v1, and speaking each provider's wire format."""
