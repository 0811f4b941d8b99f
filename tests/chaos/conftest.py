"""What the tests of this folder need from the machine."""

from __future__ import annotations

from tests.hosts import why_no_namespaces

NEED_NAMESPACES = ["test_hosts.py"]
collect_ignore = NEED_NAMESPACES if why_no_namespaces() else []
