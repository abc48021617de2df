"""Photos judged by networks that were not trained on them: label errors, folds."""
