"""Whether a deployment is well: one file for each thing that is looked at.

For the command line.
"""
