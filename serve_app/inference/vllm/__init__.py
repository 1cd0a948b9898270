"""Models served by vLLM through Ray Serve LLM: an optional engine, with replicas of its own."""
