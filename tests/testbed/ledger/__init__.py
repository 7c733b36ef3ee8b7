"""Federations of ledgers in virtual time: toy and learning sites, hostile members, faults."""
