"""Harm noticed: what an author's entries do to a site's own loss, votes about it, and the suspension they make."""
