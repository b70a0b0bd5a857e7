"""Theory of normalized filters, checked against the library's transformations."""
