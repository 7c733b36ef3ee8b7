"""What would be used of a site's data, and what looks wrong with it."""
