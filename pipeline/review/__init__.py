"""Photos on a page: enlarge them, and say which class they are of, for a CSV file."""
