"""The laboratory: whole peers in virtual time, hostile members, hosts of their own, processes killed at random.

Nothing in `kmel_p2p` imports it. `python -m tests.testbed FILE` plays a scenario file.
"""
