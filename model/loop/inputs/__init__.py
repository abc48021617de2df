"""Batches for training: photos, or features that frozen layers computed once."""
