"""Sealed rounds: a group of sites opens the sum of its deltas and nothing else (docs/sealed.md)."""
