"""What files an index offers for exact pins, and how one is fetched; uv looks up, so that its settings hold.

Nothing is installed here.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agilab import digest
from agilab.errors import InstallError
from agilab.uv import run_uv

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A distribution's file on an index or in a folder of wheels.

    Parameters
    ----------
    distribution, version
        What it is a file of.
    marker
        Where that is needed, as an environment marker; empty for everywhere.
    url
        Where it is.
    sha256
        Its digest as the index says; empty when the index says none.
    size_bytes
        Its size [bytes]; 0 when not known.
    """

    distribution: str
    version: str
    marker: str
    url: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """Its file name."""
        from urllib.parse import unquote

        return unquote(PurePosixPath(self.url.partition("?")[0].partition("#")[0]).name)


def offered(requirements: str, *, work: Path, log: Path, task: str) -> list[IndexFile]:
    """Ask uv which files there are for pins, for every platform; nothing is downloaded that has metadata apart.

    Parameters
    ----------
    requirements
        Requirements text, each line an exact version, with or without hashes.
    work
        An empty folder for what uv reads and writes; a ``uv.toml`` in it counts.
    log
        File that gets uv's output.
    task
        What it is done for, for the message.

    Raises
    ------
    InstallError
        The index cannot be reached, or has no such version.
    """
    import tomllib

    work.joinpath("requirements.in").write_text(requirements, encoding="utf-8")
    options = ["--no-deps", "--universal", "--output-file", "pylock.toml", "--python", sys.executable]
    run_uv(["pip", "compile", "requirements.in", *options], task=task, log=log, report=lambda _: None, folder=work)
    locked = tomllib.loads(work.joinpath("pylock.toml").read_text(encoding="utf-8"))
    found = []
    for package in locked.get("packages", []):
        for file in [*package.get("wheels", []), package.get("sdist"), package.get("archive")]:
            if file:
                where = file.get("url") or (work / file["path"]).resolve().as_uri()
                found.append(
                    IndexFile(
                        distribution=package["name"],
                        version=package.get("version", ""),
                        marker=package.get("marker", ""),
                        url=where,
                        sha256=file.get("hashes", {}).get("sha256") or _sha256_of_local(where),
                        size_bytes=int(file.get("size", 0)),
                    )
                )
    return found


def fetch(file: IndexFile, target: Path, *, task: str) -> str:
    """Copy a file of an index to `target`; return the sha256 of what came.

    Raises
    ------
    InstallError
        It cannot be downloaded.
    """
    from http.client import HTTPException
    from urllib.error import URLError
    from urllib.request import urlopen

    total = hashlib.sha256()
    try:
        with urlopen(file.url, timeout=_TIMEOUT_S) as answer, open(target, "wb") as local:
            while block := answer.read(_CHUNK_BYTES):
                total.update(block)
                local.write(block)
    except (URLError, HTTPException, TimeoutError, ConnectionError) as err:
        reason = getattr(err, "reason", None) or err
        raise InstallError(
            f"cannot {task} from {file.url}: {reason}; check the network, "
            "or put the file into a folder that UV_FIND_LINKS names"
        ) from err
    return total.hexdigest()


def _sha256_of_local(url: str) -> str:
    """Hash a file of a local folder, which uv does not always do; an index names the digests itself."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    return digest.of_file(unquote(parts.path)) if parts.scheme == "file" else ""
