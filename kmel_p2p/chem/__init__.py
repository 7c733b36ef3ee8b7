"""Structures and measurements: reading, standardising, splitting, describing molecules."""
