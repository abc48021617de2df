"""The command line, errors, files, processes, downloads of one file."""
