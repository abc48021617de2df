"""Photos and class names that text files list."""
