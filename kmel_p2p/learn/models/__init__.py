"""Kinds of trunk, the tensors of a model, and the network."""
