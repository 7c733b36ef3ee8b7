"""The protocol as pure state machines.

Guarantees: no clock, no random module, no sockets, no disk, no asyncio and no torch below this package. Time is
handed in as integer microseconds, randomness as a seeded generator, the sender of a message as the key that the
transport authenticated. A seed therefore replays a run exactly, under ZeroMQ or in the virtual-time simulator.
"""
