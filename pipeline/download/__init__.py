"""Fetch photos: drawn flowers, TensorFlow's flower photos, a list of addresses."""
