"""Pickles, and the files of PyTorch, read as plain data."""
