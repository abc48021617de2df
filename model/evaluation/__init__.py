"""Logits to figures: metrics, calibration, comparison, label errors, Grad-CAM."""
