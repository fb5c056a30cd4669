"""Evaluation: the tasks and metrics of ``vpgt eval``, and vpgt's models in lmms-eval."""
