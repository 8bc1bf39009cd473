"""μ0, the trace world model: its network, losses, data, training, sampling and checkpoints (paper 3, B, C)."""
