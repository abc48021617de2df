"""Networks: their weights, training, evaluation and use."""
