"""Secrets an operator keeps outside the platform."""
