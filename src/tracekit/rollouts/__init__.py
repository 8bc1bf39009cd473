"""Policies at work in simulators: episodes in processes of their own, what came of them, and pictures of it."""
