"""Limits: totals → thresholds → access. Who is looked at, what acts, and how keys are closed and opened."""
