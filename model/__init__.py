"""Networks, checkpoints, fine-tuning and judging."""
