"""The training loop, its state, optimization, checkpoints and sharding, for any task."""
