"""From a SMILES as written to a standardised structure and its features."""
