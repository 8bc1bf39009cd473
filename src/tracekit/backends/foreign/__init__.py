"""Networks of other people's repositories, each run by `serve.py` in a process of its own.

What lies here is read by Pythons that have no tracekit: it imports the standard library, numpy, torch and the repository, nothing of ours
but `wire` and `safe_weights`. tracekit itself imports `wire` only.
"""
