"""Theory: what is known of normalized filters, beside what the library's transformations do."""
