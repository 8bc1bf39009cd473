"""Clips with ground truth, from a simulator."""
