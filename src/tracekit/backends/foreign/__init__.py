"""Networks of other people's repositories, each run by `serve.py` in a process of its own.

What lies here is read by Pythons that have no tracekit: it imports the standard library, numpy, torch and the repository, nothing of ours
but `wire`, `safe_weights`, `stand_ins`, `devices` and `views`, which `serve.py` lets them import under names that no repository has:
`from tracekit_foreign_safe_weights import read_state`.
"""
