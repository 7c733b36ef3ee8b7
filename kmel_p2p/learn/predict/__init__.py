"""Predicting with a model directory, and the files in it."""
