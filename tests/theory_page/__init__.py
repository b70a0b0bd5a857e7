"""What theory says of normalized filters, as tests of the library's transformations."""
