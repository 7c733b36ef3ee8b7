"""What a site must not lose, on disk."""
