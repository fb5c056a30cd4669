"""The command line. Only `main` is imported to print help; commands import what they need."""
