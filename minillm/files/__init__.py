"""Files that are never half-written, and the tensors and model folders that they hold."""
