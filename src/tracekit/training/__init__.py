"""What every training of a network shares: the loop, processes, checkpoints, log, signals."""
