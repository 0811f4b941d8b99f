"""`AgiEnv`: which app, which folders, which settings; it runs nothing and owns no global state."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agilab import installation
from agilab.codec import Field, nested
from agilab.errors import ProjectNotFoundError, RequestError
from agilab.home import claim
from agilab.installation import data_root
from agilab.layers import Layer, Resolved, environment_layer, resolve, settings_layer, write_toml
from agilab.paths import HomePaths, WenvPaths, keep_reserve, make_folder
from agilab.planner import Planner
from agilab.project import Project, find, find_all
from agilab.run import RunStore

if TYPE_CHECKING:
    from agilab.request import RunRequest
    from agilab.settings import Settings


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that AGILAB reads.

    Parameters
    ----------
    name
        Its name.
    value
        What holds now, whatever it came from; empty when there is nothing.
    source
        ``"environment"``, ``"argument"`` or ``"default"``.
    doc
        What it decides.
    """

    name: str
    value: str
    source: str
    doc: str


class AgiEnv:
    """Where an app is prepared and run from: project, folders, settings, runs.

    Two of them may live in one process, with different folders and apps.

    Parameters
    ----------
    app
        Name or path of an app project; None to choose one later with `select`.
    apps_path
        Folders that are or hold app projects, looked at first.
    home
        AGILAB_HOME: settings, data and runs; default ``~/.agilab``.
    wenv
        AGILAB_WENV: worker packages and environments; default ``~/wenv``.

    Raises
    ------
    ProjectError
        The app is not there, or breaks its contract.

    Examples
    --------
    >>> env = AgiEnv("flight_telemetry")  # doctest: +SKIP
    >>> run = AGI.run(env, env.request({"sample_s": 120}))  # doctest: +SKIP
    """

    def __init__(
        self,
        app: str | Path | None = None,
        *,
        apps_path: str | Path | Sequence[str | Path] | None = None,
        home: str | Path | None = None,
        wenv: str | Path | None = None,
    ) -> None:
        self._apps_path = apps_path
        self.home = HomePaths.chosen(home)
        self.wenv = WenvPaths.chosen(wenv)
        self._sources = {"AGILAB_HOME": _source(home, "AGILAB_HOME"), "AGILAB_WENV": _source(wenv, "AGILAB_WENV")}
        self._project = None if app is None else find(app, apps_path=apps_path)

    def __repr__(self) -> str:
        app = f"{self._project.name!r}, " if self._project else ""
        return f"AgiEnv({app}home={str(self.home.root)!r}, wenv={str(self.wenv.root)!r})"

    @property
    def project(self) -> Project:
        """The selected app project; ProjectNotFoundError when none is selected."""
        if self._project is None:
            names = ", ".join(project.name for project in self.apps()) or "none found"
            raise ProjectNotFoundError(f"no app is selected; choose one with select(name): {names}")
        return self._project

    @property
    def runs(self) -> RunStore:
        """Every run in AGILAB_HOME."""
        return RunStore(self.home)

    @property
    def planner(self) -> Planner:
        """Asks the selected app's manager code."""
        return Planner(self.project, self.home, data_root(self.project, self.home))

    def apps(self) -> tuple[Project, ...]:
        """Return every app project that can be found, broken ones too."""
        return find_all(apps_path=self._apps_path)

    def select(self, app: str | Path) -> AgiEnv:
        """Return an environment for another app with the same folders; the app selected already stays the one it is."""
        if self._project is not None and app == self._project.name:
            return self  # it may have been chosen by a path where no name is found
        return type(self)(app, apps_path=self._apps_path, home=self.home.root, wenv=self.wenv.root)

    def fields(self) -> tuple[Field, ...]:
        """Return the declared settings of the app."""
        self.prepare()
        return self.planner.fields()

    def settings(self, caller: Mapping[str, Any] | None = None) -> Resolved:
        """Return every setting with its value and where it came from.

        Parameters
        ----------
        caller
            Values on top of default, app file, workspace file and environment.
        """
        return self._resolve("settings", Layer("caller", caller or {}))

    def cluster(self, caller: Mapping[str, Any] | None = None) -> Resolved:
        """Return every cluster option with its value and where it came from; environment: ``AGILAB_CLUSTER_<NAME>``."""
        return self._resolve("cluster", Layer("caller", caller or {}))

    def view_controls(self) -> list[Layer]:
        """Return the tables ``[views]`` of app file and workspace file, view -> controls; only views can check them."""
        return self._files("views")

    def save_settings(self, values: Mapping[str, Any]) -> Path:
        """Write values into the user's workspace file of the app; return its path."""
        self.prepare()
        path = self.home.app_settings(self.project.name)
        make_folder(path.parent)
        fields = self.fields()
        kept = settings_layer("workspace file", path).values
        write_toml(path, fields, _put(fields, kept, values))
        return path

    def request(
        self,
        settings: Mapping[str, Any] | Settings | None = None,
        *,
        cluster: Mapping[str, Any] | None = None,
        seed: int | None = None,
        file: str | Path | None = None,
    ) -> RunRequest:
        """Return a complete, validated request: the only way to `AGI.run`.

        Parameters
        ----------
        settings
            Values that differ from what the files say, as JSON or Python values, or a complete `Settings` object.
        cluster
            Cluster options, likewise.
        seed
            What the seeds of all partitions are made from; default 0.
        file
            A JSON file of schema ``agilab.request/1``, complete (as in a run
            folder) or with any of ``settings``, ``cluster`` and ``seed``;
            what it leaves out is as it would be without it. Arguments win.
            Or what ``agilab plan --json`` printed: the request in it.

        Raises
        ------
        SettingError
            A value is not allowed; the message names setting, value, what is allowed, and where it stands.
        RequestError
            The file is not a request, is for another app, or for other code than there is now.
        """
        from agilab.edits import checked
        from agilab.request import ClusterOptions, RunRequest, checked_seed

        given = self._from_file(Path(file)) if file is not None else {}
        values = settings if settings is None or isinstance(settings, Mapping) else settings.to_json()
        chosen = self._resolve("settings", _file_layer(file, given, "settings"), Layer("caller", values or {}))
        options = self._resolve("cluster", _file_layer(file, given, "cluster"), Layer("caller", cluster or {}))
        number = checked_seed(seed if seed is not None else given.get("seed", 0))
        return RunRequest(
            app=self.project.name,
            app_uuid=self.project.uuid,
            code_digest=self.code_digest(),
            settings=chosen.values,
            cluster=(recorded := ClusterOptions.recorded(options.values)),
            seed=number,
            edits=checked(given.get("edits", {})),
            provenance=chosen.provenance,
            cluster_provenance={name: options.provenance[name] for name in recorded},
        )

    def code_digest(self) -> str:
        """Return the sha256 over manager package and worker package as they are now."""
        return installation.code_digest(self.project)

    def variables(self) -> tuple[Variable, ...]:
        """Return every environment variable that is read, with its value and where that came from."""
        cores = str(len(os.sched_getaffinity(0)))
        folders = {"AGILAB_HOME": str(self.home.root), "AGILAB_WENV": str(self.wenv.root)}
        found = []
        for name, doc in VARIABLES.items():
            source = self._sources.get(name) or _source(None, name)
            value = folders.get(name) or os.environ.get(name) or (cores if name == "AGILAB_SLOTS" else "")
            found.append(Variable(name, value, source, doc))
        for name in sorted(name for name in os.environ if name.startswith(tuple(_PREFIXES.values()))):
            doc = "One setting of the app." if name.startswith(_PREFIXES["settings"]) else "One cluster option."
            found.append(Variable(name, os.environ[name], "environment", doc))
        return tuple(found)

    def describe(self) -> dict[str, Any]:
        """Return every path and every environment variable, as JSON."""
        project = self._project
        paths = {name: str(getattr(self.home, name)) for name in ("root", "apps", "data", "snapshots", "cache", "runs")}
        paths |= {"wenv": str(self.wenv.root), "environments": str(self.wenv.environments)}
        if project is not None:
            paths |= {
                "project": str(project.root),
                "manager": str(project.manager),
                "worker": str(project.worker),
                "app_settings": str(project.settings_file),
                "workspace_settings": str(self.home.app_settings(project.name)),
                "data_root": str(data_root(project, self.home)),
                "worker_package": str(self.wenv.package(project.name)),
                "app_runs": str(self.home.runs / project.name),
            }
        return {
            "schema": "agilab.env/1",
            "app": project.to_json() if project is not None else None,
            "paths": paths,
            "variables": [asdict(variable) for variable in self.variables()],
        }

    def prepare(self) -> None:
        """Make AGILAB_HOME and AGILAB_WENV ours before the first write into them.

        Raises
        ------
        HomeError
            One of them holds files of another program, or cannot be written.
        """
        for folder, marker, name in (
            (self.home.root, self.home.marker, "AGILAB_HOME"),
            (self.wenv.root, self.wenv.marker, "AGILAB_WENV"),
        ):
            claim(folder, marker, name)
        keep_reserve(self.home)

    def _resolve(self, table: str, *callers: Layer) -> Resolved:
        """Put app file, workspace file, environment and what a caller gave on top of each other."""
        from agilab.request import ClusterOptions

        fields = self.fields() if table == "settings" else ClusterOptions.fields()
        environment = environment_layer(fields, os.environ, prefix=_PREFIXES[table])
        return resolve(fields, [*self._files(table), environment, *callers])

    def _files(self, table: str) -> list[Layer]:
        """Read a table of the app's settings file, and of the user's."""
        project = self.project
        places = (("app file", project.settings_file), ("workspace file", self.home.app_settings(project.name)))
        return [settings_layer(source, path, table=table) for source, path in places]

    def _from_file(self, path: Path) -> dict[str, Any]:
        """Read a request file; SettingErrors about its values come later, with their names."""
        from agilab.request import SCHEMA, RunRequest

        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as err:
            raise RequestError(
                f"{path} is not a request that can be read: {err}; it is JSON of schema {SCHEMA!r}"
            ) from err
        if isinstance(value, dict) and value.get("schema") == PLAN_SCHEMA:
            value = value.get("request")
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise RequestError(f'{path} does not say "schema": "{SCHEMA}"; take request.json of a run as an example')
        app = value.get("app") or {"name": self.project.name, "uuid": self.project.uuid}
        if app != {"name": self.project.name, "uuid": self.project.uuid}:
            raise RequestError(f"{path} is for app {app}, not for {self.project.name} ({self.project.uuid})")
        try:
            code = str(RunRequest.from_json(value).code_digest if "digest" in value else value.get("code_digest", ""))
        except RequestError as err:
            raise RequestError(f"{path} cannot be used: {err}") from err
        if code and code != self.code_digest():
            raise RequestError(
                f"{path} was made for code {code[:12]} of {self.project.name}, which is now "
                f"{self.code_digest()[:12]}; remove code_digest and digest from a copy of it to run the new code"
            )
        known = {"schema", "app", "settings", "cluster", "seed", "edits", "code_digest", "digest", "provenance"}
        unknown = sorted(value.keys() - known - {"cluster_provenance", "user"})  # who asks now is another matter
        if unknown:
            raise RequestError(f"{path} holds {', '.join(unknown)}; a request has {', '.join(sorted(known))}")
        for table in ("settings", "cluster"):
            if not isinstance(value.get(table, {}), dict):
                raise RequestError(f"{table} in {path} is {value[table]!r:.80}; allowed: a table of names and values")
        return value


VARIABLES: Mapping[str, str] = {
    "AGILAB_HOME": "Folder of settings, data sets and runs.",
    "AGILAB_WENV": "Folder of worker packages and worker environments.",
    "AGILAB_APPS": "Folders that are or hold app projects, separated by ':'.",
    "AGILAB_SLOTS": "How many workers this machine runs at the same time, over all runs.",
    "AGILAB_RESOURCES": "Countable devices of this machine, such as gpu=2,licence=1.",
    "AGILAB_TRACK": "MLflow server or store that every new run is handed to, such as http://127.0.0.1:5000.",
    "AGILAB_TRACEBACK": "Set to 1 to get Python tracebacks instead of one-line errors.",
    "NO_COLOR": "Set to anything to get no colours in the terminal.",
}
"""Every fixed environment variable that is read, and what it decides."""

PLAN_SCHEMA = "agilab.cli.plan/1"
"""Schema of what ``agilab plan --json`` prints."""

_PREFIXES = {"settings": "AGILAB_SETTING_", "cluster": "AGILAB_CLUSTER_"}


def _source(given: str | Path | None, variable: str) -> str:
    return "argument" if given is not None else "environment" if os.environ.get(variable) else "default"


def _file_layer(file: str | Path | None, request: Mapping[str, Any], table: str) -> Layer:
    """Return what a request file says, with the file as the place of every value."""
    values = request.get(table, {})
    return Layer("caller", values, dict.fromkeys(values, str(file)))


def _put(fields: Sequence[Field], kept: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Put values over those that are kept; of nested settings only what is named."""
    kept, values = nested(fields, kept), nested(fields, values)
    merged = {**kept, **values}
    for field in fields:
        one, other = kept.get(field.name), values.get(field.name)
        if field.type == "settings" and isinstance(one, Mapping) and isinstance(other, Mapping):
            merged[field.name] = _put(field.fields, one, other)
    return merged
