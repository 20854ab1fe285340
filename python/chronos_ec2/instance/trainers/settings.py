"""The `training_config` of a run's config.yaml, read and checked.

The names are those of the Chronos training script. Keys beside `training_config` belong to the run and are
not looked at, but for `seed`, which stands in when `training_config` has none.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml

from chronos_ec2.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What a training run is made of. Steps count optimiser updates."""

    prediction_length: int = 64
    """How many values each forecast looks ahead; as many at the end of every series are held out."""
    context_length: int = 512
    """How many values the model sees."""
    max_steps: int = 300
    """How many updates to make."""
    batch_size: int = 64
    """Windows an update."""
    learning_rate: float = 1e-3
    """Adam's step size at the first update; it falls linearly to 0 at the last."""
    seed: int = 0
    """What the windows of every step are drawn from, together with the step."""
    save_steps: int = 100
    """How often to write a checkpoint and to score the held-out window."""
    log_steps: int = 10
    """How often to report the loss."""
    season_length: int | None = None
    """Values a season; None takes it from the spacing of the data (24 for hours)."""

    @property
    def min_length(self) -> int:
        """The rows a series needs: one training window, and behind it the held-out values."""
        return self.context_length + 2 * self.prediction_length

    def result_keys(self) -> dict[str, Any]:
        """The settings that the weights depend on: a checkpoint made with others cannot be continued."""
        return {key: value for key, value in asdict(self).items() if key not in ("save_steps", "log_steps")}


_KNOWN: Final = tuple(field.name for field in fields(TrainingConfig))


def load_config(path: Path) -> TrainingConfig:
    """Read `training_config` from a YAML (or JSON) file.

    Args:
        path: the run's config.yaml.

    Returns:
        The settings, each missing one at its default.

    Raises:
        SettingsError: the file cannot be read or is not YAML, or a key is unknown or has a wrong value.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "--config names the run's config.yaml"
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); {hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise SettingsError(f"{path}: not YAML ({where})") from None
    top = {} if document is None else document
    if not isinstance(top, dict):
        raise SettingsError(f"{path}: a mapping of settings was expected, not {_kind(top)}")
    section = top.get("training_config")
    given = {} if section is None else section
    if not isinstance(given, dict):
        raise SettingsError(f"{path}: training_config must be a mapping, not {_kind(given)}")
    if top.get("seed") is not None:
        given = {"seed": top["seed"], **given}
    return TrainingConfig(**{str(key): _value(path, str(key), value) for key, value in given.items()})


def _value(path: Path, key: str, value: Any) -> Any:
    if key not in _KNOWN:
        nearest = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.0)[0]
        raise SettingsError(
            f"{path}: training_config.{key} is unknown; did you mean {nearest}? (known: {', '.join(_KNOWN)})"
        )
    if key == "season_length" and value is None:
        return None
    if key == "learning_rate":
        return _learning_rate(path, value)
    least = 0 if key == "seed" else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(
            f"{path}: training_config.{key} must be a whole number from {least} up, not {value!r}"
        )
    return value


def _learning_rate(path: Path, value: Any) -> float:
    # YAML 1.1 reads 1e-3 (no dot) as text, though everybody means the number.
    try:
        rate = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise SettingsError(f"{path}: training_config.learning_rate must be a number above 0, not {value!r}")
    return rate


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "a yes/no value"}.get(type(value), "a number")
