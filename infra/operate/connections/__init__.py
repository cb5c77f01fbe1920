"""Stages and log groups that somebody else deployed: connected, listed, and given back as they were.

Nobody imports it.
"""
