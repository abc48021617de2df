"""Trainings within a training: several seeds, folds or networks, doubts of labels."""
