"""`kmel-peer serve`: a page and an interface for programs to the models of a site, on this machine."""
