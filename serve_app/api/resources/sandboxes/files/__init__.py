"""Files of a sandbox: read, written, found, watched, packed."""
