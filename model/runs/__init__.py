"""The folder of a training run: what is in it, writing and reading it."""
