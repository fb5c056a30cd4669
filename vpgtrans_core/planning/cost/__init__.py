"""What a transfer costs: work, memory, time and money, from configs alone."""
