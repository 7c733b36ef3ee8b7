"""A hostile site as a test tool: the shipped protocol and transport over real sockets, with a valid key, that lies.

`python -m tests.testbed.hostile` runs one; `benchmarks/hostile.py` measures what it does to real daemons.
"""
