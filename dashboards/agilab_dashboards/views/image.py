"""The view of pictures that a run has left, one at a time."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import holoviews as hv
import numpy as np
import param

from agilab import codec
from agilab.errors import ArtifactNotFoundError, first_line
from agilab.run import Run
from agilab_dashboards.datasets import Dataset
from agilab_dashboards.frame import Frame
from agilab_dashboards.views.base import View

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff", ".bmp")
LARGEST_PIXELS = 100_000_000
SHOWN_PX = 1600
"""Longest side of what is sent to a browser [px]."""


class Image(View):
    """A picture, made smaller where it is large."""

    partition = param.Selector(
        default=None, objects=[], check_on_set=False, allow_None=True, doc="Whose picture; none for the first."
    )

    kinds = ("image",)
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @classmethod
    def fits(cls, source: Dataset) -> bool:
        return Path(source.artifacts[0].path).suffix.lower() in SUFFIXES

    @classmethod
    def controls(cls, source: Dataset) -> tuple[codec.Field, ...]:
        names = [item.partition for item in source.artifacts if not item.location]
        return tuple(
            replace(field, default=names[0] if names else None, constraints={"options": names})
            for field in cls.fields()
            if field.name == "partition"
        )

    def draw(self, source: Dataset, frame: Frame) -> Any:
        picture = self._opened(source)
        picture.thumbnail((SHOWN_PX, SHOWN_PX))
        width, height = picture.size
        numbers = np.asarray(picture.convert("RGBA"))
        made = hv.RGB(numbers, bounds=(0, 0, width, height), vdims=[*"RGBA"])
        shown = {"xaxis": None, "yaxis": None}
        made = made.opts(**shown, data_aspect=1, frame_height=min(480, height), backend="bokeh")
        return made.opts(**shown, backend="matplotlib")

    def picture(self, run: Run, width_px: int = 800) -> bytes:
        """Return the picture itself, no wider than asked for."""
        found = self._opened(self.source(run))
        found.thumbnail((width_px, width_px))
        out = io.BytesIO()
        found.convert("RGBA").save(out, "PNG")
        return out.getvalue()

    def _opened(self, source: Dataset) -> Any:
        from PIL import Image as Opened
        from PIL import UnidentifiedImageError

        items = [item for item in source.artifacts if self.partition in (None, item.partition)]
        if not items:
            raise ArtifactNotFoundError(f"partition {self.partition!r:.120} has left no {source.key}")
        path = source.run.file_of(items[0])
        try:
            found = Opened.open(path)
            if found.width * found.height > LARGEST_PIXELS:
                raise ArtifactNotFoundError(
                    f"{source.key} has {found.width:,} x {found.height:,} pixels; at most {LARGEST_PIXELS:,} are shown"
                )
            found.load()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Opened.DecompressionBombError) as err:
            if isinstance(err, ArtifactNotFoundError):
                raise
            raise ArtifactNotFoundError(f"{path} is no picture that can be read: {first_line(err)}") from err
        return found
