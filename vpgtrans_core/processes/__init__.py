"""Several processes: what their launcher was told, and which of them does not answer."""
