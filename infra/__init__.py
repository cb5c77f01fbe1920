"""The infrastructure, and the tools of those who operate it."""
