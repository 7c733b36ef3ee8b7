"""Scenario files: a federation of memberships, what happens to it, and the figures it must keep."""
