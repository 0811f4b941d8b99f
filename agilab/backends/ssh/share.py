"""A folder that all hosts of a run see under the path it has here: proved, before anything is left where it lies."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agilab.backends.ssh.link import Link
from agilab.errors import BackendRefusedError

_OLD_S = 3600.0


@dataclass(frozen=True, slots=True)
class Share:
    """The folder of a run, or none.

    Parameters
    ----------
    folder
        Its path, the same everywhere; empty for none.
    writers
        Hosts that may write to it.
    """

    folder: str = ""
    writers: frozenset[str] = frozenset()

    def path(self, file: str | Path) -> str:
        """Return what hosts call a file of ours; empty when it does not lie in the folder."""
        if not self.folder:
            return ""
        inside = os.path.relpath(os.path.realpath(file), os.path.realpath(self.folder))
        return "" if inside.split(os.sep, 1)[0] == os.pardir else os.path.join(self.folder, inside)

    def root(self, host: str, run_id: str) -> str:
        """Return where a host works on a run; empty for its own disk."""
        return os.path.join(self.folder, f".agilab-{run_id}-{host}") if host in self.writers else ""


async def prove(folder: str | None, links: Sequence[Link]) -> Share:
    """See that hosts find in a folder what was written to it here a moment ago.

    Parameters
    ----------
    folder
        The folder; None when there is none.
    links
        The hosts.

    Raises
    ------
    BackendRefusedError
        Names the hosts that do not, and what mends it.
    HostError
        A link was lost.
    """
    if not folder:
        return Share()
    folder, nonce = os.path.abspath(folder), secrets.token_hex(16)
    _sweep(Path(folder))
    file = Path(folder, f".agilab-{nonce[:8]}.nonce")
    try:
        file.write_text(nonce)
        file.chmod(0o644)  # users may have other numbers there
        said = await asyncio.gather(*(link.ask("sees", {"path": str(file)}) for link in links))
    except OSError as err:
        if isinstance(err, BackendRefusedError) or not err.filename:
            raise
        raise BackendRefusedError(
            f"share is {folder}, where nothing can be written ({err.strerror}); name a folder that all hosts see, "
            "or leave share out"
        ) from err
    finally:
        with suppress(OSError):
            file.unlink()
    blind = [link.name for link, answer in zip(links, said, strict=True) if answer["text"] != nonce]
    if blind:
        raise BackendRefusedError(
            f"share is {folder}, and what is written there does not appear on {', '.join(blind)}; mount the same "
            "folder there under that path, readable for you, or leave share out"
        )
    return Share(folder, frozenset(link.name for link, answer in zip(links, said, strict=True) if answer["writable"]))


def _sweep(folder: Path) -> None:
    """Remove words of those who were killed before they could."""
    for file in folder.glob(".agilab-*.nonce"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _OLD_S:
                file.unlink()
