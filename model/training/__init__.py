"""A training: settings, starting point, stages, resuming, folds."""
