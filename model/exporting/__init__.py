"""A run -> files that other programs classify photos with."""
