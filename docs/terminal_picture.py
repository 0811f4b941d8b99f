"""Take the README's picture of a terminal from a real `agilab first-proof`: ``python docs/terminal_picture.py``.

The command runs in a HOME of its own; its path is shortened to ``~`` in the
picture. Nothing else is changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURE = Path(__file__).parent / "pictures" / "first_proof.svg"
WIDTH = 110


def first_proof() -> str:
    """Run the command as a user without any settings would; return what the terminal shows."""
    with tempfile.TemporaryDirectory() as home:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("AGILAB_")}
        variables |= {"HOME": home, "COLUMNS": str(WIDTH)}
        variables.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
        agilab = Path(sys.executable).with_name("agilab")
        done = subprocess.run(
            [agilab, "first-proof"],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return done.stdout.replace(home, "~")


def picture(printed: str) -> str:
    """Draw a terminal that shows the command and what it printed, as SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115 - ends with the process
    console.print(Text("$ agilab first-proof", style="bold"))
    console.print(Text.from_ansi(printed.rstrip()))
    svg = console.export_svg(title="agilab first-proof", theme=MONOKAI, unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(first_proof()))
    print(PICTURE)
