"""Backends of `caption`: what happens, in words."""
