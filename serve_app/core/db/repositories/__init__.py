"""SQL, one file a noun. Nothing here commits on its own except the functions that say so."""
