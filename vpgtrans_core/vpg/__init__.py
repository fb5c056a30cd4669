"""Visual prompt generators: the interface that VPG families implement."""
