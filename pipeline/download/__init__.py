"""Fetch photos: drawn flowers, the public flowers, a list of addresses."""
