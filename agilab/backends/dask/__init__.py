"""Backend `dask`: partitions in leases on the workers of a Dask cluster; see `backend` for how its files divide the work.

This module imports nothing: a lease runner loads it too, on hosts that have
no more of AGILAB than it needs.
"""
