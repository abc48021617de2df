"""What the user has (class folders, lists, CSV, old records) as one list of photos."""
