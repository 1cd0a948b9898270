"""What the API is about, one folder a noun: endpoints, service, schemas."""
