"""Compare runs on the same photos."""
