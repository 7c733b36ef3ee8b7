"""The ledger without its older entries: made, given, fetched, kept."""
