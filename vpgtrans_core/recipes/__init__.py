"""What a run does, stage by stage: descriptions and the lists that ship. Loads no torch."""
