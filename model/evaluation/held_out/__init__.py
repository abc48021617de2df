"""Predictions of networks that were not trained on the photos: label errors, folds."""
