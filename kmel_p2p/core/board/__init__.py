"""The board: signed notices of all sites, which spread by gossip whether or not anybody trains."""
