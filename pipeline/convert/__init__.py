"""Convert photos to TFRecord files and a manifest."""
