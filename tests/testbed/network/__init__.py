"""The virtual-time network: hosts, links, connections, and an event queue in integer microseconds."""
