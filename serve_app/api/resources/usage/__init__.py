"""Usage: what calls to models cost."""
