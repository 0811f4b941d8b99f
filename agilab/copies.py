"""App projects as folders: clone, rename and delete, each whole or not at all; it runs none of their code.

Everything is prepared aside, in a folder ``.agilab-*.tmp`` beside the target,
and renamed into place. A clone has its own uuid; a renamed project keeps it.
Runs stay where they are.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from agilab import contract, digest, frozen, syntax, trust
from agilab.errors import NoSpaceError, ProjectError, RunStateError
from agilab.owner import probe_owner
from agilab.paths import HomePaths, disk_errors, make_folder
from agilab.project import Project, read
from agilab.renaming import ENDINGS, Renaming
from agilab.run import RunStore
from agilab.template import require_free

ASIDE = ".agilab-"
"""How the name of a folder begins in which something is being prepared."""

_KEPT_ASIDE = (".git", ".hg")
"""What does not count in a project, but is lost when it is not moved along."""


def clone(project: Project, name: str, folder: Path, *, home: HomePaths) -> Project:
    """Copy a project under another name and with a uuid of its own, every reference renamed.

    Parameters
    ----------
    project
        One that can be found, also a shipped or installed one. A clone of one
        that is not trusted is not trusted either.
    name
        Of the clone.
    folder
        Where it is put; it must exist.
    home
        Where it is remembered if it is not trusted.

    Raises
    ------
    ProjectError
        The name is not allowed or taken, the project is broken, or the folder cannot be written to.
    """
    target = require_free(name, folder)
    with aside(folder) as place:
        made = copied(project, name, place / target.name, uuid=str(uuid4()))
        _carry_trust(project, made.root, home, target=target)
        made.root.rename(target)
    return read(target)


def rename(project: Project, name: str, *, home: HomePaths) -> Project:
    """Give a project another name; uuid, history of versions and workspace settings stay with it.

    Its runs stay where they are, below the old name.

    Parameters
    ----------
    project
        One of the user's own.
    name
        The new name.
    home
        Whose workspace settings follow.

    Raises
    ------
    ProjectError
        It is shipped or installed, or the name is not allowed or taken.
    RunStateError
        A run of it is going on.
    """
    _require_own(project, "renamed", home)
    target = require_free(name, project.root.parent)
    with aside(target.parent) as place:
        made = copied(project, name, place / target.name, uuid=project.uuid)
        for kept in filter(os.path.lexists, (project.root / name for name in _KEPT_ASIDE)):
            _copy_whole(kept, made.root / kept.name)
        _carry_trust(project, made.root, home, target=target)
        made.root.rename(target)  # from here on both are there, until the old one has gone
        project.root.rename(place / project.root.name)
    trust.forget(project.root, home)
    before, after = home.app_settings(project.name), home.app_settings(name)
    if before.is_file() and not after.exists():
        make_folder(after.parent)
        before.rename(after)
    return read(target)


def delete(project: Project, *, home: HomePaths) -> None:
    """Remove a project's folder; its runs and workspace settings stay.

    Parameters
    ----------
    project
        One of the user's own; it may be broken.
    home
        Where its runs are.

    Raises
    ------
    ProjectError
        It is shipped or installed, or cannot be removed.
    RunStateError
        A run of it is going on.
    """
    _require_own(project, "deleted", home)
    with aside(project.root.parent) as place:
        project.root.rename(place / project.root.name)
    trust.forget(project.root, home)


def sources(project: Project) -> list[tuple[Path, str]]:
    """List the files of a project that count with their POSIX paths in a checkout, by path; also of an installed one.

    Raises
    ------
    ProjectError
        One is neither a file nor a link that stays inside.
    """
    found, base = [(project.root / name, name) for name in trust.files(project.root)], project.root
    if project.manager.parent != project.root / "src":  # installed
        base = project.manager.parent
        for ending in ENDINGS:
            package = project.manager.with_name(f"{project.name}{ending}")
            inside = f"src/{package.name}"
            names = digest.tree_files(package, skip=project.root.name) if package.is_dir() else []
            found += [(package / name, f"{inside}/{name}") for name in names]
    for path, _ in found:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            leads_to = path.readlink()
            if leads_to.is_absolute() or not path.resolve().is_relative_to(base.resolve()):
                raise ProjectError(f"{path} is a link out of the project, to {leads_to}; put the file itself there")
        elif not stat.S_ISREG(mode):
            raise ProjectError(f"{path} is neither a file nor a link; take it out of the project")
    return sorted(found, key=lambda item: item[1])


def copied(project: Project, name: str, target: Path, *, uuid: str) -> Project:
    """Write a project into a folder that is not there yet, under a name and a uuid; return it.

    Raises
    ------
    ProjectError
        It is broken, or its names are written in a way that cannot be followed.
    """
    if project.breaches:
        raise ProjectError(f"{project.breaches[0]}; a broken project cannot be copied under another name")
    renaming = _renaming(project, name)
    for path, old in sources(project):
        file = target / renaming.path(old)
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            file.symlink_to(path.readlink())
            continue
        text = _text(path)
        if text is None:
            shutil.copyfile(path, file)
        else:
            text = renaming.text(old, text)
            file.write_bytes((text.replace(project.uuid, uuid) if old == "pyproject.toml" else text).encode())
        file.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)
    made = read(target)
    before, after = contract.check(project), contract.check(made)
    if made.breaches or made.uuid != uuid or len(after) > len(before):
        wrong = (made.breaches or after or (f"uuid {project.uuid} is not written as text",))[0]
        said = str(wrong).replace(f"{target}{os.sep}", "")
        raise ProjectError(f"{project.root} cannot be copied as {name!r}: {said}")
    return made


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """Give a folder inside another one, to prepare in; whatever is in it at the end is removed.

    Raises
    ------
    ProjectError
        Something cannot be written there.
    """
    place = None
    try:
        with disk_errors(folder, "writing a project to"):
            frozen.sweep(folder, prefix=ASIDE)
            place = Path(tempfile.mkdtemp(prefix=ASIDE, suffix=f".{os.getpid()}.tmp", dir=folder))
            yield place
    except (NoSpaceError, ProjectError):
        raise
    except OSError as err:
        where = err.filename or folder
        raise ProjectError(f"{where} cannot be read or written ({err.strerror or err}); nothing was changed") from err
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _renaming(project: Project, name: str) -> Renaming:
    classes = [text.partition(":")[2] for text in (project.app_class, project.worker_class)]
    members = {kind.partition(".")[2] for kind in project.kinds if kind.startswith(f"{project.name}.")}
    for ending in ENDINGS:
        package = project.manager.with_name(f"{project.name}{ending}")
        for path, module in syntax.source_files(package):
            members |= set(module.split(".")[1:2])
            if path == package / "__init__.py":
                members |= set(re.findall(r"(?m)^(?:class|def) (\w+)", _text(path) or ""))
    return Renaming(project.name, name, tuple(classes), frozenset(members))


def _text(path: Path) -> str | None:
    """Return the content of a file that may hold names; None for bytes, and for what is too large to be source."""
    with open(path, "rb") as file:
        data = file.read(syntax.LARGEST_SOURCE_BYTES + 1)
    if len(data) > syntax.LARGEST_SOURCE_BYTES:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _carry_trust(project: Project, made: Path, home: HomePaths, *, target: Path) -> None:
    known = trust.untrusted(project.root, home)
    if known is not None:
        trust.record(made, home, root=target, origin=known.origin, origin_sha256=known.origin_sha256)


def _require_own(project: Project, done: str, home: HomePaths) -> None:
    if not project.writable:
        raise ProjectError(
            f"{project.root} is {project.source} and cannot be {done}; clone it: agilab apps clone {project.name} NAME"
        )
    if project.root.is_symlink():
        raise ProjectError(f"{project.root} is a link to {project.root.readlink()}, and is not {done} through it")
    for run in RunStore(home).list(project.name):
        if probe_owner(run.paths) == "held" and run.request["app"]["uuid"] == project.uuid:
            raise RunStateError(
                f"{project.name} cannot be {done} while run {run.run_id} of it is going on; "
                f"wait, or: agilab cancel {run.run_id}"
            )


def _copy_whole(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, target, symlinks=True)
    else:
        shutil.copy2(path, target, follow_symlinks=False)
