"""Sandboxes: made, used, put to sleep, forked, ended."""
