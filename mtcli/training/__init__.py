"""From pairs to weights: defaults, batches, optimizers, the loop."""
