"""Settings files as bytes: the real one with flaws, and YAML that is small to write and huge to read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonsense import FUZZ, TEXTS, flawed_bytes

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.settings import KEYS, SETTINGS_FILE, load_settings
from faults.tools.tally import Tally

REAL = SETTINGS_FILE.read_bytes()
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = st.text(alphabet="{}[]!&*?:-|>%@#'\"\n\t 0x9.e~atimestampbinaryomap", max_size=40) | st.sampled_from(
    [
        "!!timestamp x",
        "!!int",
        "!!float .",
        "&a [*a]",
        "? [[]]",
        "!!python/object/apply:os.system [touch canary]",
    ]
)


def load(content: bytes, **more: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "invoke.yaml"
        file.write_bytes(content)
        try:
            load_settings("dev", file=file, **{"variables": {}, **more})
        except SettingsError as error:
            assert 10 < len(str(error)) < 5000
            return "refused"
    return "read"


@FUZZ
@given(flawed_bytes(REAL))
def test_a_flawed_file_is_read_or_refused(tally: Tally, content: bytes) -> None:
    tally.count("settings file", load(content))


@FUZZ
@given(st.sampled_from(KEYS) | TEXTS, YAML | TEXTS, st.booleans())
def test_any_flag_and_variable_is_taken_or_refused(tally: Tally, key: str, text: str, training: bool) -> None:
    name = f"training.{key}" if training else key
    tally.count("flag", load(REAL, overrides={name: text}))
    tally.count("variable", load(REAL, variables={f"CHRONOS_{key.upper()}": text}))
    assert not Path("canary").exists()


@pytest.mark.parametrize("where", ["training", "command", "region", "chronos", "unknown"])
def test_aliases_that_stand_for_billions_are_refused(where: str) -> None:
    bomb = "".join(f"  {line}\n" for line in BOMB.splitlines())
    assert load(b"chronos:\n" + bomb.encode()) == "refused"
    file = (
        f"x:\n{bomb}chronos:\n  defaults:\n    {where}: *i\n"
        if where != "chronos"
        else f"x:\n{bomb}chronos: *i\n"
    )
    assert load(file.encode()) == "refused"
    assert load(REAL, overrides={f"training.{where}": "{" + BOMB.replace("\n", ", ") + "}"}) == "refused"
    assert load(REAL, overrides={"training": "&a {a: *a}"}) == "refused"
