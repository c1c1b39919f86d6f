"""A corpus to a dataset directory, by worker processes or by Beam."""
