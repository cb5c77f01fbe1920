"""Mutated lines and payloads, many of them."""
