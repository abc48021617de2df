"""Photos -> TFRecords -> batches."""
