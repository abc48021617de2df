"""Compute the output of a network that does not train, faster than Keras does."""
