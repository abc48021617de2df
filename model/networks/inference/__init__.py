"""Compute what a network that does not train gives, faster than Keras does."""
