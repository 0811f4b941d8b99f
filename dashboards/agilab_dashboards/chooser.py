"""Choosing a file or folder on the server's machine, inside a few roots and nowhere else; it reads no file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import panel as pn
import panel_material_ui as pmui
from panel.viewable import Viewable, Viewer

MOST_ENTRIES = 500
"""How many entries of a folder are offered."""
_UP = ".."


def entries(folder: Path, roots: Sequence[Path], *, folders_only: bool) -> list[str]:
    """Return what can be chosen in a folder: names, those of folders with a slash; nothing outside the roots.

    Parameters
    ----------
    folder
        Where to look.
    roots
        Folders outside of which nothing is shown. What a link leads to has to lie inside too.
    folders_only
        Whether files are left out.
    """
    if not inside(folder, roots):
        return []
    found = []
    try:
        with os.scandir(folder) as listed:
            for entry in listed:
                if entry.name.startswith(".") or (entry.is_symlink() and not inside(Path(entry.path), roots)):
                    continue
                if entry.is_dir():
                    found.append(f"{entry.name}/")
                elif not folders_only:
                    found.append(entry.name)
    except OSError:
        return []
    return sorted(found, key=lambda name: (not name.endswith("/"), name))[:MOST_ENTRIES]


def inside(path: Path, roots: Sequence[Path]) -> bool:
    """Say whether a path, links followed, is one of the roots or lies in one."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    return any(real == root.resolve() or real.is_relative_to(root.resolve()) for root in roots)


class Chooser(Viewer):
    """A folder's entries to walk through, shown when its button is pressed.

    Parameters
    ----------
    roots
        The only folders it shows, the first one to begin with.
    chosen
        Told the path that was chosen.
    folders_only
        Whether a folder is wanted.
    """

    def __init__(self, roots: Sequence[Path], chosen: Callable[[Path], None], *, folders_only: bool) -> None:
        super().__init__()
        self._roots, self._chosen, self._folders_only = list(roots), chosen, folders_only
        self._folder = self._roots[0]
        self.button = pmui.IconButton(icon="folder_open", size="small", description="choose on the server")
        self.button.on_click(self._open)
        self._list: Any = None
        self._panel = pn.Column(sizing_mode="stretch_width", visible=False)

    def __panel__(self) -> Viewable:
        return self._panel

    def _open(self, event: Any) -> None:
        if self._list is None:
            self._list = pmui.Select(label="", options=[], sizing_mode="stretch_width")
            self._list.param.watch(self._picked, "value")
            take = pmui.Button(label="Take this folder", variant="text", visible=self._folders_only)
            take.on_click(self._taken)
            self._panel.objects = [self._list, take]
        self._panel.visible = not self._panel.visible
        if self._panel.visible:
            self._show(self._folder)

    def _show(self, folder: Path) -> None:
        self._folder = folder
        names = entries(folder, self._roots, folders_only=self._folders_only)
        up = [_UP] if inside(folder.parent, self._roots) else []
        others = [str(root) for root in self._roots if root != folder]
        self._list.param.update(label=str(folder), options=["", *up, *names, *others], value="")

    def _picked(self, event: Any) -> None:
        name = event.new
        if not name:
            return
        path = self._folder.parent if name == _UP else self._folder / name
        if not inside(path, self._roots):  # whatever a browser sends
            return
        if path.is_dir():
            self._show(path)
        elif not self._folders_only:
            self._panel.visible = False
            self._chosen(path)

    def _taken(self, event: Any) -> None:
        self._panel.visible = False
        self._chosen(self._folder)
