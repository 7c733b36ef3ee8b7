"""What leaves a site, looked at as another member could: which substructures and compounds it shows."""
