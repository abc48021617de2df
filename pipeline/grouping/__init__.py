"""Which photos belong together, and in which split they go."""
