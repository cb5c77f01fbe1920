"""Tests, a folder for each kind; README.md says which is which."""
