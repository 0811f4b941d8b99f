"""What a shell, a terminal or a path could obey is refused."""

from __future__ import annotations

import pytest

from agilab.backends.ssh.names import checked_file_name, split_host
from agilab.errors import EvidenceError, HostError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("node-1.example.org", ("", "node-1.example.org")),
        ("me@node", ("me", "node")),
        ("fe80::1", ("", "fe80::1")),
        ("10.0.0.7", ("", "10.0.0.7")),
    ],
)
def test_a_name_is_split_into_user_and_host(name: str, parts: tuple[str, str]) -> None:
    assert split_host(name) == parts


@pytest.mark.parametrize(
    "name",
    ["", "-oProxyCommand=x", "me@-v", "a b", "a;b", "$(x)", "a`x`", "a\nb", "a/b", "a|b", "'a'", "me@", "@a", "ä"],
)
def test_a_name_that_a_shell_or_ssh_could_obey_is_refused(name: str) -> None:
    with pytest.raises(HostError, match="not a name a host can have") as caught:
        split_host(name)
    assert (caught.value.host, caught.value.step) == (name, "name")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a", "a/b.json", "a b/ä", "..a", "-rf"])
def test_a_plain_file_name_stays_as_it_is(name: str) -> None:
    assert checked_file_name(name, host="h") == name


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\nb", "a\x1b[2J", "a\0b", "a" * 300, None, 3]
)
def test_a_file_name_that_leads_elsewhere_is_refused(name: object) -> None:
    with pytest.raises(EvidenceError, match="nothing was written"):
        checked_file_name(name, host="h")
