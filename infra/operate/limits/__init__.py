"""Limits of customers, as an operator sets, sees and tries them: one file for each.

For the command line.
"""
