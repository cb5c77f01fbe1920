"""Rules by themselves: no table, no server."""
