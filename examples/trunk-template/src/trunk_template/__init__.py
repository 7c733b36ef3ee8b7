"""An example of a trunk for kmel_p2p."""
