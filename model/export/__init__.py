"""A run to files for other tools: SavedModel, ONNX, LiteRT, Keras."""
