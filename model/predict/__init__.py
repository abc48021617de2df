"""Photos to their most probable classes."""
