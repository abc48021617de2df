"""Trainings of several seeds, folds or networks; search for doubtful labels."""
