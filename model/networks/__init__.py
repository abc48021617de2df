"""AlexNet and the other networks, layer by layer, and the new head."""
