"""Trunk and heads, the trainer process and its messages, comparison of models, prediction.

`session`, `architecture` and `budget` import no torch, so that the daemon may use them.
"""
