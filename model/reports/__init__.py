"""Figures to text, an HTML page and TensorBoard."""
