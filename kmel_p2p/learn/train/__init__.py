"""Local training: batches, optimiser, rounds, checkpoints."""
