"""VPG, projector and frozen LLM as one model: loaded, trained, and asked about images."""
