"""Backends of `reconstruct`: cameras and depth."""
