"""Batches to trained weights: step, epoch, optimizer, schedule, feature cache."""
