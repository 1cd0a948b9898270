"""Sandboxes: isolated process trees where untrusted code runs, and the pools that keep them."""
