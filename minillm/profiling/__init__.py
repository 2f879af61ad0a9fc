"""What a model costs: memory, floating-point operations, and the profile of a training step."""
