"""Graft turns a folder of photos into a classifier."""
