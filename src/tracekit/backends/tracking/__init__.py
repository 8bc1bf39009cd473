"""Backends of `track`: points through time."""
