"""Whatever stands in the file, the flags and the variables: settings, or a SettingsError."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.settings import KEYS, Settings, check_environment_name, load_settings

from .conftest import REAL

FAST = settings(max_examples=60, deadline=None, database=None, derandomize=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=5,
)
KEYS_OR_NOT = st.sampled_from(KEYS) | st.text(max_size=8)


def load(document: object, **arguments: Any) -> Settings | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "invoke.yaml"
        file.write_bytes(document if isinstance(document, bytes) else yaml.safe_dump(document).encode())
        try:
            return load_settings(file=file, **{"variables": {}, **arguments})
        except SettingsError as error:
            assert len(str(error)) > 10
            return None


@FAST
@given(st.dictionaries(KEYS_OR_NOT, VALUES, max_size=4))
def test_any_values_in_the_defaults(values: dict[str, Any]) -> None:
    loaded = load({"chronos": {**REAL, "defaults": {**REAL["defaults"], **values}}}, environment="dev")
    if loaded is not None:
        assert set(values) <= set(KEYS)


@FAST
@given(VALUES)
def test_any_document(document: object) -> None:
    load({"chronos": document})
    load(document)


@FAST
@given(st.dictionaries(SCALARS, VALUES, max_size=3))
def test_any_environments(environments: dict[Any, Any]) -> None:
    load({"chronos": {**REAL, "environments": environments}}, environment="dev")


@FAST
@given(
    st.binary(max_size=60) | st.text(alphabet="{}[]!&*?:-|>%@#'\"\n\t 0x9.e~a", max_size=40).map(str.encode)
)
def test_any_bytes(content: bytes) -> None:
    load(content)


@FAST
@given(st.dictionaries(KEYS_OR_NOT, st.text(max_size=12), max_size=3), st.booleans())
def test_any_flags_and_variables(texts: dict[str, str], as_flags: bool) -> None:
    named = {f"CHRONOS_{key.upper()}": value for key, value in texts.items()}
    given_here = {"overrides": texts} if as_flags else {"variables": named}
    loaded = load({"chronos": REAL}, environment="dev", **given_here)
    if loaded is not None:
        assert re.fullmatch("[a-z]{2}(-[a-z]+)+-[0-9]", loaded.region)
        assert 0.05 <= loaded.max_hours <= 336


@FAST
@given(st.text(max_size=40) | st.from_regex(r"[a-z][a-z0-9-]*", fullmatch=True))
def test_a_name_is_taken_exactly_when_it_is_one(name: str) -> None:
    alphabet = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    right = 1 <= len(name) <= 32 and set(name) <= alphabet and name[0] in "abcdefghijklmnopqrstuvwxyz"
    try:
        check_environment_name(name)
    except SettingsError:
        assert not right or name in ("logs", "cached-datasets")
    else:
        assert right
