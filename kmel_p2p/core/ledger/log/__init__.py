"""Logs, their entries, and the trunk they sum to."""
