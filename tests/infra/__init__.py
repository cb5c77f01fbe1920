"""What is synthesised, bundled and written about it."""
