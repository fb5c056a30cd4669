"""The command line: flags, tables, progress. What a command does is in the core; heavy code is imported on use."""
