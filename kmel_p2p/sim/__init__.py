"""A virtual-time network for the state machines of `core`, and the scenarios they are proved in.

`network` carries any machine that keeps the contract of `core.effects`; `scenario`, `run` and what they use drive
memberships through scenario files. A seed replays a run exactly (docs/membership.md, "The simulator").
"""
