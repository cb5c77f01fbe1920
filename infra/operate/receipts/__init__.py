"""Receipts: what became of one request, for whoever disputes it."""
