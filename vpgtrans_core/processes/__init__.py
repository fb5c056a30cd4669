"""Several processes: what their launcher was told, whether they share the folder, and which does not answer."""
