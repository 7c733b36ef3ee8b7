"""The register of predictions: what was predicted before it was measured, and whether it was right."""

FOLDER = "prospective"
"""Of the report, in a site's state directory."""

REPORT = "prospective.json"
