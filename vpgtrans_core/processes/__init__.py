"""Several processes: their launcher, whether they share the folder, which does not answer, how they keep in step."""
