"""Differential privacy of single compounds: what a plan costs in epsilon."""
