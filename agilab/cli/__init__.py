"""The shell's way in: `agilab`, `agilab --help` and `agilab --version` are answered here, from a table.

Nothing is imported for them, since people type them most and wait for them.
Every other command line goes to `agilab.cli.root`, which loads click and the
one file of commands that is needed. The table is the single place where
commands are named; a test holds it equal to what the commands say themselves.
"""

import sys

from agilab import __version__

SECTIONS = (
    (
        "Start here",
        (
            ("first-proof", "prove", "Install, run and verify a small job on real data."),
            ("doctor", "prove", "Check this machine and say how to fix what is wrong."),
        ),
    ),
    (
        "App projects",
        (
            ("apps", "apps", "List the app projects that can be run; clone, rename, delete."),
            ("new", "projects", "Write a new app project that runs at once."),
            ("check", "projects", "Name every breach of the app contract, with its fix."),
            ("settings", "settings", "Show an app's settings and where each value came from."),
            ("install", "projects", "Make an app's worker package and worker environment."),
            ("export", "sharing", "Take an app or a run away: as a zip, a notebook, to MLflow."),
            ("import", "sharing", "Make an app project of a zip file or a notebook."),
            ("trust", "sharing", "Look at an imported app, and let it run."),
        ),
    ),
    (
        "Runs",
        (
            ("plan", "launch", "Show what a run would do, without running it."),
            ("run", "launch", "Run an app and keep the evidence."),
            ("bench", "bench", "Run one request on several backends and compare."),
            ("cancel", "control", "Cancel a run, and wait until it has ended."),
            ("resume", "launch", "Go on with a run that failed, was cancelled or was lost."),
            ("seal", "control", "Close the record of a lost run, as failed."),
            ("debug", "control", "Repeat one partition under a debugger."),
        ),
    ),
    (
        "Evidence",
        (
            ("runs", "history", "List runs, newest first."),
            ("show", "evidence", "Show what a run did and what it left."),
            ("tag", "history", "Give a run tags and a note, or take them away."),
            ("logs", "logs", "Print the log of a run, or follow it."),
            ("verify", "prove", "Hash a run folder again and name what has changed."),
            ("compare", "compare", "Show what differs between runs."),
        ),
    ),
    (
        "Disk space",
        (
            ("rm", "space", "Remove runs."),
            ("clean", "space", "Remove what nothing needs any more, and old runs."),
        ),
    ),
    ("Services", (("service", "service", "Keep an app warm: requests to its service start at once."),)),
    (
        "Hosts",
        (
            ("fetch", "fetch", "Bring artifacts here that stayed on hosts."),
            ("cluster", "cluster", "Remove from hosts what runs have deployed to them."),
        ),
    ),
    ("This installation", (("env", "setup", "Print every path and environment variable in use."),)),
)
"""Section -> (command, file of this package that holds it, what it does)."""

EXIT_CODES = (
    (0, "done"),
    (1, "a run, a check or a verification failed, or a gate blocks"),
    (2, "wrong use, setting, request or project, or a gate is undecided"),
    (3, "an installation failed"),
    (4, "the disk is full"),
    (70, "a fault in AGILAB itself"),
    (130, "cancelled (Ctrl-C); 143 after SIGTERM"),
)
"""What the shell is told; 0 never follows a failure."""

COMMANDS_GROUP = "agilab.commands"
"""The entry-point group through which installed extensions add commands."""


def main(argv: list[str] | None = None) -> int:
    """Answer one command line and return its exit code.

    Parameters
    ----------
    argv
        The arguments after the program's name; by default those of this process.

    Returns
    -------
    int
        One of `EXIT_CODES`.
    """
    words = sys.argv[1:] if argv is None else argv
    first = words[0] if words else "--help"
    if first in ("--help", "-h") or words == ["help"]:
        sys.stdout.write(help_text())
        return 0
    if first in ("--version", "-V"):
        sys.stdout.write(f"agilab {__version__}\n")
        return 0
    from agilab.cli.root import call

    return call([*words[1:], "--help"] if first == "help" else words)


def help_text() -> str:
    """Write the overview: commands by section, exit codes, and commands of installed extensions."""
    lines = [
        "Usage: agilab COMMAND [OPTIONS] [ARGS]...",
        "",
        "An anti-lock-in reproducibility workbench for AI/ML engineering teams.",
        "Control path: AgiEnv -> AGI.run -> worker package -> artifacts",
    ]
    for title, commands in SECTIONS:
        lines += ["", f"{title}:"]
        lines += [f"  {name:<13}{text}" for name, _, text in commands]
    added = added_commands()
    if added:
        lines += ["", "From installed extensions:", f"  {', '.join(added)}"]
    codes = [f"{code} {text}" for code, text in EXIT_CODES]
    lines += ["", "Exit codes:", *(f"  {code}" for code in codes)]
    lines += ["", "agilab COMMAND --help explains a command; --version prints the version."]
    return "\n".join(lines) + "\n"


def added_commands() -> list[str]:
    """Name the commands of installed extensions by looking for their group in `entry_points.txt` files.

    importlib.metadata answers the same in fifteen times the time; it is asked
    when such a command is called.
    """
    from os import scandir

    known = {name for _, commands in SECTIONS for name, _, _ in commands}
    found: set[str] = set()
    for folder in sys.path:
        try:
            with scandir(folder or ".") as entries:
                packages = [entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        for package in packages:
            try:
                with open(f"{package}/entry_points.txt", encoding="utf-8") as file:
                    text = file.read()
            except (OSError, ValueError):
                continue
            if f"[{COMMANDS_GROUP}]" in text:
                section = text.partition(f"[{COMMANDS_GROUP}]")[2].partition("\n[")[0]
                found |= {line.partition("=")[0].strip() for line in section.splitlines() if "=" in line}
    return sorted(name for name in found - known if name.isprintable())
