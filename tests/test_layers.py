"""Layers: which value wins, where it came from, and what is written back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agilab import codec
from agilab.layers import Layer, environment_layer, resolve, resolve_secrets, settings_layer, write_toml
from agilab.toml import read_toml
from tests.every_setting import Everything, Model, message


def test_the_stronger_layer_wins_and_says_where(tmp_path: Path) -> None:
    shipped, own = tmp_path / "app.toml", tmp_path / "own.toml"
    shipped.write_text("[settings]\ninteger = 4\nnumber = 2\n\n[settings.model]\ndepth = 6\nrate = 0.5\n[cluster]\n")
    own.write_text('schema = "agilab.settings/1"\nsettings.number = 3\n[settings.model]\n\ndepth = 7\n')
    layers = [
        settings_layer("app file", shipped),
        settings_layer("workspace file", read_toml(own)),
        environment_layer(Everything.fields(), {"AGILAB_SETTING_SWITCH": "no", "AGILAB_SETTING_MODEL__DEPTH": "8"}),
        Layer("caller", {"text": "mine"}),
    ]
    resolved = resolve(Everything.fields(), layers)
    assert resolved.values["model"] == {"depth": 8, "rate": 0.5, "token": None}
    wanted = {
        "integer": (4, "app file", f"{shipped}:2"),
        "number": (3.0, "workspace file", f"{own}:2"),
        "model.rate": (0.5, "app file", f"{shipped}:7"),
        "model.depth": (8, "environment", "AGILAB_SETTING_MODEL__DEPTH"),
        "switch": (False, "environment", "AGILAB_SETTING_SWITCH"),
        "text": ("mine", "caller", ""),
        "model.token": (None, "default", ""),
        "maybe": (None, "default", ""),
    }
    for name, (value, source, where) in wanted.items():
        assert codec.same(codec.get_path(resolved.values, name), value)
        assert resolved.provenance[name] == {"source": source, "where": where}
    assert set(resolved.provenance) == {
        name for name, _ in codec.leaves(Everything.fields()) if "other" not in name
    } | {"other_model"}


def test_a_wrong_value_in_a_file_gives_file_and_line_even_if_it_would_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[settings]\ntext = """\n[settings]\n"""\n# integer = 1\n\ninteger = "x"\n')
    layers = [settings_layer("app file", path), Layer("caller", {"integer": 1})]
    said = message(resolve, Everything.fields(), layers)
    assert said == f"setting 'integer' is 'x'; allowed: a whole number ({path}:7)"
    path.write_text("[settings]\n'integer' = 1\n[settings.model]\ndepht = 2\n")
    said = message(resolve, Everything.fields(), [settings_layer("app file", path)])
    assert said == f"unknown setting 'model.depht'; did you mean 'model.depth'? ({path}:4)"
    path.write_text("[settings]\n\nmodel = {depth = 20}\n")
    said = message(resolve, Everything.fields(), [settings_layer("app file", path)])
    assert said.endswith(f"a whole number >= 1 and <= 9 ({path}:3)")


def test_a_nested_setting_can_be_switched_off_and_on_by_a_stronger_layer() -> None:
    fields = Everything.fields()
    off = resolve(fields, [Layer("app file", {"model": {"depth": 2}}), Layer("caller", {"other_model": None})])
    assert off.provenance["other_model"] == {"source": "caller", "where": ""}
    on = resolve(fields, [Layer("app file", {"other_model": {}})])
    assert on.values["other_model"] == {"depth": 3, "rate": 0.1, "token": None}
    optional = codec.fields_from_json(codec.fields_to_json(fields))
    again = resolve(
        optional, [Layer("app file", {"other_model": {"depth": 2}}), Layer("caller", {"other_model": None})]
    )
    assert again.values["other_model"] is None
    assert "other_model.depth" not in again.provenance
    layers = [Layer("app file", {"other_model": {"depth": 2}}), Layer("workspace file", {"other_model": None})]
    anew = resolve(fields, [*layers, Layer("caller", {"other_model": {"rate": 0.5}})])
    assert anew.values["other_model"] == {"depth": 3, "rate": 0.5, "token": None}
    assert anew.provenance["other_model.depth"] == {"source": "default", "where": ""}
    assert anew.provenance["other_model.rate"]["source"] == "caller"


def test_a_variable_that_nearly_matches_is_an_error_and_one_for_another_app_is_not() -> None:
    fields = Everything.fields()
    said = message(environment_layer, fields, {"AGILAB_SETTING_INTEGR": "1"})
    assert said == "unknown variable AGILAB_SETTING_INTEGR; did you mean AGILAB_SETTING_INTEGER?"
    assert environment_layer(fields, {"AGILAB_SETTING_QQQQQQQQQ": "1", "HOME": "/"}).values == {}
    said = message(environment_layer, fields, {"AGILAB_SETTING_BOUNDED": "11"})
    assert said.endswith("a whole number >= 0 and <= 10 [1] (AGILAB_SETTING_BOUNDED)")


def test_two_settings_that_share_a_variable_are_an_error_only_when_it_is_set() -> None:
    fields = [codec.Field("a", "integer", 1), codec.Field("A", "integer", 1)]
    assert environment_layer(fields, {}).values == {}
    assert "could be 'a' or 'A'" in message(environment_layer, fields, {"AGILAB_SETTING_A": "1"})


# --- files ---


def test_a_written_file_explains_itself_and_keeps_what_is_not_ours_to_change(tmp_path: Path) -> None:
    path = tmp_path / "new" / "app_settings.toml"
    write_toml(path, Everything.fields(), {"bounded": 5, "model": {"depth": 2}, "moment": "2013-01-01T00:00:00+00:00"})
    text = path.read_text()
    assert text.startswith('schema = "agilab.settings/1"\n\n[settings]\n')
    assert "\n# Count: a whole number >= 0 and <= 10 [1]\nbounded = 5\n" in text
    assert "\n# number = 1.5\n" in text
    assert "\nmoment = 2013-01-01T00:00:00+00:00\n" in text
    assert "\n# The model\n[settings.model]\n# Layers: a whole number >= 1 and <= 9\ndepth = 2\n" in text
    rest = (
        "# mine\n[cluster]\nworkers = 3 # here\nnan = nan\n\n[[views]]\n".replace("[[views]]", "[views]")
        + 'a = """\n[x]\n"""\n'
    )
    path.write_text(text + "\n" + rest + "[settings.other_model]\ndepth = 1\n")
    write_toml(path, Everything.fields(), {"text": "]"})
    again = path.read_text()
    assert rest.strip() in again
    assert "other_model" not in read_toml(path).tables["settings"]
    assert read_toml(path).tables["settings"] == {"text": "]"}
    assert [entry.name for entry in path.parent.iterdir()] == ["app_settings.toml"]
    write_toml(path, Everything.fields(), {"text": "]"})
    assert path.read_text() == again
    write_toml(path, Model.fields(), {"depth": 4}, table="cluster")
    assert read_toml(path).tables["cluster"] == {"depth": 4}
    assert read_toml(path).tables["settings"] == {"text": "]"}


def test_a_file_that_is_not_there_is_an_empty_layer(tmp_path: Path) -> None:
    assert settings_layer("workspace file", tmp_path / "none.toml").values == {}
    assert "cannot be read" in message(read_toml, tmp_path)


def test_a_settings_file_is_private_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.toml"
    write_toml(path, Model.fields(), {})
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


# --- secrets ---


def test_secrets_are_read_where_their_references_lead(tmp_path: Path) -> None:
    kept = tmp_path / "token"
    kept.write_text("from file\n")
    values = codec.validate(Everything.fields(), {"secret": "env:TOKEN", "model": {"token": f"file:{kept}"}})
    found = resolve_secrets(Everything.fields(), values, {"TOKEN": "from variable"})
    assert found == {"secret": "from variable", "model.token": "from file"}
    made = codec.decode(Everything.fields(), values, secrets=found)
    assert (made.secret, made.model.token) == ("from variable", "from file")
    assert "from variable" not in repr(made)


def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    def resolved(reference: str) -> str:
        return message(resolve_secrets, Everything.fields(), {"secret": reference}, {})

    assert resolved("env:TOKEN") == "secret 'secret' is env:TOKEN, but that variable is not set; set it and try again"
    assert "which cannot be read: No such file or directory" in resolved(f"file:{tmp_path}/none")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    assert "is larger than 65536 bytes" in resolved(f"file:{tmp_path}/large")
    (tmp_path / "bytes").write_bytes(b"\xff hunter2")
    assert "hunter2" not in resolved(f"file:{tmp_path}/bytes")


# --- cost ---


def test_layers_codec_and_schema_do_not_need_param() -> None:
    code = "import sys, agilab.layers, agilab.schema; print('param' in sys.modules, 'click' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
