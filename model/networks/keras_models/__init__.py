"""Rebuild the network that a Keras model's configuration describes; run none of it."""
