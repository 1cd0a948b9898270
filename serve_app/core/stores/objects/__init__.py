"""Object storage: the port, the local disk, S3."""
