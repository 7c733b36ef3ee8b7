"""Stacks: several kinds of learners for one assay endpoint, weighed on compounds that none of them was fitted to."""
