"""Turn photos into records, and records into batches of tensors."""
