"""Write a classifier in each of the export formats."""
