"""Live events: what happens now, for whoever is watching. The log in PostgreSQL is the truth."""
