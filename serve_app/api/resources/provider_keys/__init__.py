"""Keys of providers: stored sealed, never shown again."""
