"""The platform: API, router, inference, and the ground floor they share."""
