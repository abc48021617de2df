"""Networks whose weights are found in PyTorch's files, with PyTorch's arithmetic."""
