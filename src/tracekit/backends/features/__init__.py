"""Backends of `keypoints`: descriptors of patches."""
