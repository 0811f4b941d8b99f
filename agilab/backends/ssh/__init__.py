"""Hosts reached over SSH: connected, checked, deployed to, and processes on them that end with their run.

`hosts.Hosts` is the way in. asyncssh is imported by `connection` and what
stands on it; `onhost`, `boot` and `probe` run on the hosts and need nothing
but the standard library there.
"""

STEPS = ("name", "configuration", "address", "connection", "host key", "login", "Python", "disk", "link")
"""How far a host can come before something is wrong with it, in this order."""
