"""What the functions share: rooms whose walls the build holds; README.md beside this file draws them.

May be entered by the functions and by the operator's tools; it never imports either.
"""
