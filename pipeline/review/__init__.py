"""HTML pages of photos: enlarge them, review their labels, and save these as CSV."""
