"""Notebooks both ways: an app or a run as a notebook that is read and run elsewhere, a notebook as an app project.

Nothing here runs a notebook, and what is written needs no notebook software.
"""
