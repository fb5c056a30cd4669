"""The command line: flags, tables and progress bars. The work is done in the other rooms, which are imported on use."""
