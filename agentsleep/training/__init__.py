"""Training through sleep: curriculum, optimisers, loop, checkpoints."""
