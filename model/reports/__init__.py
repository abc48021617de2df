"""Figures to text and an HTML page."""
