"""Backend `dask`: partitions in leases on the workers of a Dask cluster; `backend` says which file does what.

This module imports nothing: a lease runner loads it too, on hosts that have
no more of AGILAB than it needs.
"""
