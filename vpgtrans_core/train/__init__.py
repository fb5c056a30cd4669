"""From a stage's description to trained parameters: optimiser, steps, checkpoints."""
