"""The text of the probe's worker: every way a partition can go, as verbs that a plan strings together."""

WORKER = '''\
"""Does what its partitions say: ``params["steps"]`` is a list of verbs with their arguments."""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import agilab

DEADLINE_S = 60.0
SURVIVOR = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(120)"


class ProbeWorker(agilab.Worker):
    def setup(self):
        self.partitions = 0
        if self.settings.setup == "raise":
            raise RuntimeError("setup was told to fail")
        if self.settings.setup == "exit":
            os._exit(5)

    def teardown(self):
        print("torn down after", self.partitions, "partitions", flush=True)
        if self.settings.setup == "raise at the end":
            raise RuntimeError("teardown was told to fail")

    def first(self, part):
        self.partitions += 1
        for verb, *arguments in part.params.get("steps", []):
            getattr(self, "_" + verb)(part, *arguments)

    second = third = late = first

    def _write(self, part, name, value):
        part.write(name, "json", value)

    def _fill(self, part, name, size):
        part.write(name, "text", "x" * size)

    def _scatter(self, part, name):
        (part.folder / name).write_text("never handed over")

    def _count(self, part):
        part.write("count", "json", self.partitions)

    def _read(self, part, name):
        found = {key: [hashlib.sha256(path.read_bytes()).hexdigest(), str(path)] for key, path in part.inputs.items()}
        part.write(name, "json", found)

    def _random(self, part, name):
        part.write(name, "json", [part.seed, part.rng.random(), part.rng.random()])

    def _secret(self, part, name):
        part.write(name, "json", hashlib.sha256(self.settings.token.encode()).hexdigest())

    def _environment(self, part, name):
        part.write(name, "json", {"variables": dict(os.environ), "argv": sys.argv, "path": sys.path})

    def _devices(self, part, name):
        part.write(name, "json", [dict(part.resources), os.environ.get("CUDA_VISIBLE_DEVICES")])

    def _import(self, part, *names):
        found = {}
        for name in names:
            try:
                importlib.import_module(name)
                found[name] = "imported"
            except ImportError as err:
                found[name] = type(err).__name__
        part.write("imports", "json", found)

    def _metric(self, part, name, value, step=None):
        part.metric(name, float(value), step)

    def _progress(self, part, total):
        for done in range(total + 1):
            part.progress(done, total)

    def _strange_numbers(self, part):
        class Number(int):
            """What numpy's scalars are like: numbers that the json module does not take."""

        class Foreign:
            def __index__(self):
                return 3

            def __float__(self):
                return 3.0

            def __lt__(self, other):
                return 3 < other

        part.metric("strange", Foreign(), Foreign())
        part.metric("missing", float("nan"), Number(2))
        part.progress(Foreign(), Number(7))

    def _print(self, part, text):
        print(text)
        print(text, file=sys.stderr)
        os.system("echo from a child: " + text)

    def _log(self, part, text):
        part.log.warning(text)

    def _wait(self, part, path, deadline_s=DEADLINE_S):
        end = time.monotonic() + deadline_s
        while not os.path.exists(path):
            if time.monotonic() > end:
                raise TimeoutError(path)
            time.sleep(0.005)

    def _touch(self, part, path):
        Path(path).touch()

    def _until_cancelled(self, part, path):
        end = time.monotonic() + DEADLINE_S
        while not part.cancelled and time.monotonic() < end:
            time.sleep(0.005)
        Path(path).write_text(str(part.cancelled))

    def _allocate(self, part, size):
        block = b"x" * size
        part.write("size", "json", len(block))

    def _bloat(self, part, size):
        self.block = b"x" * size

    def _raise(self, part, kind):
        raise_it(kind)

    def _raise_times(self, part, folder, count, kind):
        """Fail until it was tried more than `count` times."""
        tried = len(os.listdir(folder))
        Path(folder, str(tried)).touch()
        if tried < count:
            raise_it(kind)

    def _die(self, part, number):
        os.kill(os.getpid(), number)

    def _die_times(self, part, folder, count):
        """Die until it was tried more than `count` times."""
        tried = len(os.listdir(folder))
        Path(folder, str(tried)).touch()
        if tried < count:
            os.kill(os.getpid(), signal.SIGKILL)

    def _exit(self, part, code):
        os._exit(code)

    def _hang(self, part, path):
        """Do not end: ignore what can be ignored, and so do a child and one in a session of its own."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        pids = [os.getpid(), *(survivor(new) for new in (False, True))]
        aside = path + ".tmp"
        Path(aside).write_text(json.dumps(pids))
        os.rename(aside, path)
        time.sleep(DEADLINE_S)

    def _orphans(self, part, path):
        """Leave processes behind, the first time."""
        if not os.path.exists(path):
            aside = path + ".tmp"
            Path(aside).write_text(json.dumps([survivor(new) for new in (False, True)]))
            os.rename(aside, path)

    def _spoil(self, part, how):
        """Change the run folder, which is not worker code's to change."""
        root = part.folder.parent.parent
        if how == "link":
            os.symlink("/etc/hostname", root / "odd")
        else:
            next(root.glob(how)).unlink()

    def _fork(self, part):
        """Let a child return from the method as well, and report."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        part.metric("forked", 1.0)

    def _fork_and_raise(self, part):
        child = os.fork()
        if not child:
            raise RuntimeError("only the child raises")
        os.waitpid(child, 0)


def survivor(new_session):
    command = [sys.executable, "-I", "-S", "-c", SURVIVOR]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=new_session)
    child.stdout.readline()
    child.stdout.close()
    child.returncode = 0  # nobody is going to wait for it, and Popen need not warn
    return child.pid


def raise_it(kind):
    class Local(Exception):
        """Cannot be pickled: neither its class nor what it holds can be found again."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("no text for you")

    if kind == "value":
        raise ValueError("first line\\nsecond line")
    if kind == "local":
        raise Local(lambda: None)
    if kind == "mute":
        raise Mute()
    if kind == "exit":
        raise SystemExit(0)
    if kind == "long":
        raise ValueError("x" * 10_000_000)
    if kind == "memory":
        raise MemoryError("told to")
    if kind == "surrogate":
        raise ValueError("half a character: \\udc80")
    if kind == "interrupt":
        raise KeyboardInterrupt
    raise AssertionError(kind)
'''
