"""One file per provider, all behind the same port."""
