"""The organisation's own models, aliases and providers, beside the platform's."""
