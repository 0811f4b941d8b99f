"""The first words on a host, handed to its Python on the command line: get the program, check its digest, run it.

Arguments: digest of the program, operation. It says on stdout, as a line of
JSON, whether it has the program, and reads it from stdin if not: a line with
its size [bytes], then JSON. Nothing imports this module.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile

digest, operation = sys.argv[2:4]
stdin = os.fdopen(0, "rb", buffering=0, closefd=False)
caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
folder = os.path.join(caches, "agilab", "host", digest)


def say(message: dict[str, object]) -> None:
    """Tell the manager something."""
    print(json.dumps(message), flush=True)


def digest_of(files: dict[str, bytes]) -> str:
    """Name the program as `program.Program` does."""
    text = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read() -> dict[str, bytes]:
    """Read the program that is here."""
    files = {}
    for path, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py"):
                with open(os.path.join(path, name), "rb") as file:
                    files[os.path.relpath(os.path.join(path, name), folder)] = file.read()
    return files


def receive() -> None:
    """Take the program from stdin and put it in place whole."""
    left = int(stdin.readline())
    blocks = []
    while left > 0:
        block = stdin.read(min(left, 1 << 16))
        if not block:
            sys.exit(1)
        blocks.append(block)
        left -= len(block)
    files = {name: text.encode() for name, text in json.loads(b"".join(blocks)).items()}
    if digest_of(files) != digest:
        sys.exit("the program that came is not the one that was announced")
    aside = tempfile.mkdtemp(prefix="." + digest[:16], suffix=".tmp", dir=os.path.dirname(folder))
    try:
        for name, data in files.items():
            path = os.path.join(aside, name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def have() -> None:
    """Have the program here: one process receives it, another one that comes meanwhile waits."""
    if digest_of(read()) == digest:
        return
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    guard = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(guard, fcntl.LOCK_EX)
    if digest_of(read()) != digest:
        signal.alarm(60)  # a manager that falls silent must not keep the others waiting
        say({"status": "absent"})
        receive()
        signal.alarm(0)
    os.close(guard)


try:
    have()
except OSError as err:
    place = caches
    while not os.path.exists(place):
        place = os.path.dirname(place)
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    say({"status": "failed", "errno": err.errno, "reason": err.strerror, "path": folder, "free": free})
    sys.exit(1)
say({"status": "ready"})
sys.path.insert(0, folder)
from agilab.backends.ssh.onhost import main  # noqa: E402 - it has just become possible

sys.exit(main(operation, stdin))
