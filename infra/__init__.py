"""The infrastructure, and the tools of those who operate it: ``cli → local → operate | stack → outputs``.

The functions never import it.
"""
