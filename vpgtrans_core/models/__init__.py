"""From a name to a model: its folder, its config, its family. Loads no torch."""
