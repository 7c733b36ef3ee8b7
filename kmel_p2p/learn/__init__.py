"""Trunk and heads, training, the trainer process and its messages, evaluation, prediction.

What the daemon uses imports neither torch nor RDKit: `worker.session`, `worker.process`, `models.layout`,
`train.balance`, `predict.model_directory` and `predict.trunk_file`.
"""
