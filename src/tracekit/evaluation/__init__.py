"""How good a result is: extractions against the ground truth of a simulator."""
