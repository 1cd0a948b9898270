"""How calls to models are kept: cached answers, logged requests."""
