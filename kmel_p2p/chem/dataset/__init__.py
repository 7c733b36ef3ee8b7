"""From records to the measurements of a site: units, limits, embargo, replicates, folds, the account of every value."""
