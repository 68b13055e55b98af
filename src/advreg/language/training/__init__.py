"""Training language models against the worst case: losses, attacks inside training, the guard, and the run folder."""
