"""The record files of a data set and its manifest: format, reading, writing."""
