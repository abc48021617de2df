"""Records to batches of tensors: windows, augmentation, tf.data."""
