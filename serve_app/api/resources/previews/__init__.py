"""Creations as pages, each on a host name of its own and never on the application's origin."""
