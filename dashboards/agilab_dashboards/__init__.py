"""The Panel server of AGILAB: forms from declarations, the workflow pages, who may see them; `agilab` does the work.

This module loads nothing, so that ``agilab serve --help`` needs no Panel.
"""
