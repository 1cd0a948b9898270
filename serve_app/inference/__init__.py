"""Models this platform runs itself: engines, who may use them when, and how their words travel."""
