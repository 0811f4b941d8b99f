"""Runs notebooks cell by cell as Jupyter's kernel does, in one process, and says what each printed and wrote.

``python jupyter.py FOLDER NAME...``: FOLDER holds a copy of the notebooks' folder for each NAME.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell


def digests() -> dict[str, str]:
    """Return path -> sha256 of every file here."""
    files = [path for path in sorted(Path().rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ran(folder: Path, name: str) -> dict[str, Any]:
    """Run one notebook in its folder."""
    os.chdir(folder / name)
    sys.path.insert(0, os.getcwd())
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.displayhook.write_output_prompt = lambda: None
    shell.displayhook.write_format_data = lambda found, md_dict=None: print(found["text/plain"])
    before, said = digests(), io.StringIO()
    with contextlib.redirect_stdout(said):
        for cell in json.loads(Path(f"{name}.ipynb").read_text())["cells"]:
            if cell["cell_type"] == "code":
                shell.run_cell("".join(cell["source"]), store_history=False).raise_error()
    sys.path.pop(0)
    written = {path: sha256 for path, sha256 in digests().items() if before.get(path) != sha256}
    return {"printed": said.getvalue(), "written": written}


if __name__ == "__main__":
    os.environ["IPYTHONDIR"] = sys.argv[1]
    print(json.dumps({name: ran(Path(sys.argv[1]), name) for name in sys.argv[2:]}), flush=True)
    os._exit(0)  # IPython's threads would wait for a prompt
