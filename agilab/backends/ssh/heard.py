"""What a host says about the partitions it was given, checked before anything follows from it; it decides nothing.

A host may be compromised: nothing that it says may name a partition of another
host, lead out of a folder, end a process here, or be no value of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from agilab.backends.dask.lease import Said
from agilab.errors import EvidenceError
from agilab.paths import NAME_PATTERN
from agilab.worker import RECORD_NAME

_REASONS = ("died", "exception", "memory", "protocol", "timeout")
_SHAPES: Mapping[str, tuple[type, ...]] = {
    "report": (dict,),
    "committed": (dict, str),
    "done": (str, dict),
    "failed": (str, str, str, str),
    "returned": (str,),
    "started": (int, int),
    "gone": (str,),
    "note": (str,),
    "broken": (str, str),
}
"""What may be said -> the types of what is said with it; see `agilab.backends.dask.lease`."""
_REPORTS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "progress": {"done": (int, float), "total": (int, float)},
    "metric": {"name": str, "value": (int, float, str), "step": (int, float, type(None))},
    "log": {"level": str, "text": str},
}
_RECORD: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("partition", "started"), str),
    **dict.fromkeys(("wall_s", "cpu_s", "peak_rss_bytes"), (int, float)),
    **dict.fromkeys(("metrics", "artifacts"), list),
}
_ARTIFACT: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "kind", "path", "sha256"), str),
    "size_bytes": int,
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


def checked(said: Sequence[Any], mine: Collection[str], *, host: str) -> list[Said]:
    """Return what of a host's words counts.

    Parameters
    ----------
    said
        As a lease runner says it.
    mine
        The partitions that it was given: whatever it says about others is passed over, and may come late.
    host
        Its name.

    Raises
    ------
    EvidenceError
        It is nothing that our own program would say.
    """
    found = []
    for one in said:
        words: list[Any] = one if isinstance(one, list) and one and isinstance(one[0], str) else [""]
        kind, *what = words
        shape = _SHAPES.get(kind, ())
        _check(bool(shape) and len(what) == len(shape) and all(map(isinstance, what, shape)), one, host)
        about = what[0] if kind in ("failed", "returned", "done") else None
        if kind == "report":
            _check(_is_report(what[0]), what[0], host)
            about = what[0]["id"]
        elif kind == "committed":
            _check(_is_record(what[0]), what[0], host)
            about = what[0]["partition"]
        elif kind == "failed":
            _check(what[1] in _REASONS, one, host)
        elif kind == "done":  # everything else is committed there
            _check(what[1].get("cancelled") is True, one, host)
        if kind != "started" and (about is None or about in mine):  # processes there are not ours to end
            found.append([kind, *what])
    return found


def _check(sound: bool, said: object, host: str) -> None:
    if not sound:
        raise EvidenceError(f"host {host} said {said!r:.120}, which makes no sense; nothing was written")


def _is_report(message: Mapping[str, Any]) -> bool:
    fields = _REPORTS.get(message.get("op", ""), {}) if isinstance(message.get("op"), str) else {}
    names = {"op", "id", *fields}
    return bool(fields) and message.keys() == names and isinstance(message["id"], str) and _has(message, fields)


def _is_record(record: Mapping[str, Any]) -> bool:
    if not _has(record, _RECORD):
        return False
    try:
        datetime.fromisoformat(record["started"])
    except ValueError:
        return False
    folder = f"artifacts/{record.get('stage')}/{record['partition']}/"
    artifacts, metrics = record["artifacts"], record["metrics"]
    return (
        all(record[name] >= 0 for name in ("wall_s", "cpu_s", "peak_rss_bytes"))
        and all(isinstance(item, dict) and _has(item, _REPORTS["metric"]) for item in metrics)
        and all(isinstance(item, dict) and _is_artifact(item, folder) for item in artifacts)
        and all(len({item[name] for item in artifacts}) == len(artifacts) for name in ("name", "path"))
    )


def _is_artifact(item: Mapping[str, Any], folder: str) -> bool:
    if not _has(item, _ARTIFACT):
        return False
    file = item["path"].removeprefix(folder)
    return (
        item["path"].startswith(folder)
        and file != RECORD_NAME
        and all(NAME_PATTERN.fullmatch(text) is not None for text in (item["name"], item["kind"], file[:100]))
        and _SHA256.fullmatch(item["sha256"]) is not None
        and item["size_bytes"] >= 0
    )


def _has(said: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]]) -> bool:
    """Whether every field is there with its type; a truth value is no number."""
    return all(isinstance(said.get(name), kind) and not isinstance(said[name], bool) for name, kind in fields.items())
