"""VPG, projector and frozen LLM as one model: loading, training, and generating text about images."""
