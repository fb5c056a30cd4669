"""A transfer from start to end: batches, stages, the run's folder, its record, curve and model card."""
