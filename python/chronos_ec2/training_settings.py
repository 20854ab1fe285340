"""The `training_config` of a run: its keys, their types and limits, checked before anything is rented.

The names are those of the Chronos training script and of Hugging Face's `TrainingArguments`. The laptop
checks them at launch, the trainer again where it runs.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, TypeVar

from chronos_ec2.data.columns import Columns
from chronos_ec2.errors import SettingsError

MODEL_SIZES: Final = ("tiny", "mini", "base")
SCHEDULES: Final = ("linear", "cosine", "constant")
PRECISIONS: Final = ("auto", "fp32", "bf16")
RANDOM: Final = "random"

_ALIASES: Final = {"num_steps": "max_steps", "target_columns": "target", "item_id_column": "id_column"}
_HINTS: Final = {
    "per_device_train_batch_size": "batch_size is the number of windows of all devices together",
    "bf16": "precision: bf16 computes in it",
    "random_init": "model_id: random starts from random weights",
    "output_dir": "the wrapper chooses the folder",
    "training_data_paths": "the data are what invoke upload --data sent",
}
LARGEST_SIZE: Final = 1 << 20
"""Of a model's sizes and lengths: beyond it are typing errors."""
MOST_LAYERS: Final = 1000
_ANY: Final = 1e12
WHEN_TO_TELL: Final = frozenset({"save_steps", "log_steps"})
"""Settings that change nothing in what is learned, whoever trains."""
_MODEL_KEYS: Final = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "dropout_rate")

Config = TypeVar("Config")


def _number(default: Any, least: float, most: float = _ANY, *, optional: bool = False) -> Any:
    return field(default=default, metadata={"least": least, "most": most, "optional": optional})


def _choice(default: str, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def _columns(default: tuple[str, ...]) -> Any:
    return field(default=default, metadata={"columns": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """What every trainer of ours knows. Steps count optimiser updates."""

    prediction_length: int = _number(64, 1, LARGEST_SIZE)
    """How many values each forecast looks ahead; as many at the end of every series are held out."""
    context_length: int = _number(512, 1, LARGEST_SIZE)
    """How many values the model sees."""
    max_steps: int = _number(300, 1)
    """How many updates to make."""
    batch_size: int = _number(64, 1)
    """Windows an update, over all processes together."""
    seed: int = _number(0, 0)
    """What the windows of every step are drawn from, together with the step."""
    save_steps: int = _number(100, 1)
    """How often to write a checkpoint and to score the held-out window."""
    log_steps: int = _number(10, 1)
    """How often to report the loss."""
    season_length: int | None = _number(None, 1, optional=True)
    """Values a season; None takes it from the spacing of the data (24 for hours)."""
    id_column: str = field(default="item_id", metadata={"text": re.compile(r".+")})
    timestamp_column: str = field(default="timestamp", metadata={"text": re.compile(r".+")})
    target: tuple[str, ...] = _columns(("target",))
    """The columns to forecast, of each series together."""
    past_covariates: tuple[str, ...] = _columns(())
    """Columns known up to the present."""
    known_covariates: tuple[str, ...] = _columns(())
    """Columns known over the prediction length as well: a calendar, a price list."""

    @property
    def columns(self) -> Columns:
        """The columns to read.

        Raises:
            SettingsError: a column has two parts to play.
        """
        try:
            return Columns(
                item_id=self.id_column,
                timestamp=self.timestamp_column,
                targets=self.target,
                past_covariates=self.past_covariates,
                known_covariates=self.known_covariates,
            )
        except ValueError as error:
            raise SettingsError(f"training_config: {error}") from error

    @property
    def min_length(self) -> int:
        """The rows a series needs: one training window, and behind it the held-out values."""
        return self.context_length + 2 * self.prediction_length

    def result_keys(self) -> dict[str, Any]:
        """The settings that the weights depend on: a checkpoint made with others cannot be continued."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key not in WHEN_TO_TELL
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig(WindowConfig):
    """The test trainer's settings."""

    learning_rate: float = _number(1e-3, 0)
    """Adam's step size at the first update; it falls linearly to 0 at the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChronosConfig(WindowConfig):
    """The settings of training Chronos-2."""

    batch_size: int = _number(32, 1)
    model_id: str = field(
        default=RANDOM, metadata={"text": re.compile(r"random|s3://[^/]+/.+|/.*|\.{1,2}/.*")}
    )
    """`random`, or the folder or S3 prefix of a Chronos-2 model to fine-tune."""
    model_size: str = _choice(MODEL_SIZES[0], *MODEL_SIZES)
    """The size of a model that starts at random: tiny 0.3 M, mini 28 M, base 120 M parameters."""
    model_config: Mapping[str, Any] = field(default_factory=dict, metadata={"model": True})
    """Sizes that differ from `model_size`: d_model, d_kv, d_ff, num_layers, num_heads, dropout_rate."""
    min_past: int | None = _number(None, 1, optional=True)
    """The fewest values that a training window's context has; None is the prediction length, as upstream."""
    learning_rate: float | None = _number(None, 0, optional=True)
    """AdamW's highest step size; None is 1e-3 from random weights and 1e-5 in fine-tuning."""
    lr_scheduler_type: str = _choice("linear", *SCHEDULES)
    warmup_steps: int | None = _number(None, 0, optional=True)
    """Updates over which the rate rises; None: 20 (a tenth at most) from random weights, 0 in fine-tuning."""
    weight_decay: float = _number(0.0, 0)
    max_grad_norm: float = _number(1.0, 0)
    """The gradient is scaled down to this norm; 0 leaves it as it is."""
    gradient_accumulation_steps: int = _number(1, 1)
    """Parts in which a process takes its share of the batch, one after the other, to save memory."""
    eval_series: int = _number(1000, 1)
    """Series that are scored at each `save_steps`; all of them are at the end."""
    precision: str = _choice("auto", *PRECISIONS)
    """auto: bf16 where the GPU computes in it (compute capability 8.0 and up), else fp32."""
    torch_compile: bool = field(default=False, metadata={"flag": True})
    """Compile the model at the first step; that takes a minute, a C compiler, and pays on long runs alone."""

    def __post_init__(self) -> None:
        """Refuse sizes that nothing would look at.

        Raises:
            SettingsError: sizes are given beside a model that has its own.
        """
        given = {"model_size": self.model_size != MODEL_SIZES[0], "model_config": bool(self.model_config)}
        for key in given if self.fine_tuning else ():
            if given[key]:
                raise SettingsError(
                    f"training_config: {key} is for random weights, the model that model_id names has its "
                    "own sizes; leave it out"
                )

    @property
    def fine_tuning(self) -> bool:
        """Whether it starts from a model that has learned."""
        return self.model_id != RANDOM

    @property
    def least_past(self) -> int:
        """`min_past` as it is used."""
        return min(self.prediction_length if self.min_past is None else self.min_past, self.context_length)

    @property
    def min_length(self) -> int:
        """The rows a series needs: one training window, and behind it the held-out values."""
        return self.least_past + 2 * self.prediction_length

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate` as it is used."""
        return (1e-5 if self.fine_tuning else 1e-3) if self.learning_rate is None else self.learning_rate

    @property
    def warmup(self) -> int:
        """`warmup_steps` as it is used."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return 0 if self.fine_tuning else min(20, self.max_steps // 10)

    def learning_rate_at(self, step: int) -> float:
        """The rate of an update, as Hugging Face's schedules have it.

        Args:
            step: the update, from 1 to max_steps.
        """
        done = step - 1
        if done < self.warmup:
            return self.peak_learning_rate * (done + 1) / self.warmup
        if self.lr_scheduler_type == "constant":
            return self.peak_learning_rate
        left = 1 - (done - self.warmup) / max(1, self.max_steps - self.warmup)
        if self.lr_scheduler_type == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * (1 - left)))
        return self.peak_learning_rate * left

    def result_keys(self) -> dict[str, Any]:
        """As in every trainer; where the start model lies does not matter, what is in it does."""
        beside = ("model_id", "eval_series", "gradient_accumulation_steps", "torch_compile")
        # Not super(): a dataclass with slots is another class than the one that the call was compiled in.
        return {key: value for key, value in WindowConfig.result_keys(self).items() if key not in beside}


def read_training_config(config: type[Config], given: Mapping[str, Any], source: str) -> Config:
    """Check a mapping of settings.

    Args:
        config: `ChronosConfig` or `LinearConfig`.
        given: the mapping; a missing key stays at its default.
        source: what messages call it.

    Raises:
        SettingsError: a key is unknown, or its value has another type or lies outside its limits.
    """
    known = {item.name: item for item in fields(config)}  # type: ignore[arg-type]  # a dataclass by contract
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = _ALIASES.get(str(key), str(key))
        if name not in known:
            raise SettingsError(f"{source}.{key} is unknown; {_nearest(str(key), tuple(known))}")
        if name in values:
            raise SettingsError(f"{source}: {key} is given twice, under another name as well")
        values[name] = _checked(f"{source}.{key}", known[name].metadata, known[name].default, value)
    return config(**values)


def _nearest(key: str, known: tuple[str, ...]) -> str:
    if key in _HINTS:
        return _HINTS[key]
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
    return f"did you mean {nearest}? (known: {', '.join(known)})"


def _checked(where: str, rule: Mapping[str, Any], default: Any, value: Any) -> Any:
    if "least" in rule:
        return _checked_number(where, rule, default, value)
    if "choices" in rule:
        if value not in rule["choices"]:
            raise SettingsError(f"{where} must be one of {', '.join(rule['choices'])}, not {value!r}")
        return value
    if "flag" in rule:
        if not isinstance(value, bool):
            raise SettingsError(f"{where} must be true or false, not {value!r}")
        return value
    if "columns" in rule:
        return _checked_columns(where, value, needed=bool(default))
    if "model" in rule:
        return _checked_model(where, value)
    if not isinstance(value, str) or not rule["text"].fullmatch(value):
        expected = (
            "random, a folder (starting with / or .) or s3://…" if where.endswith("model_id") else "a name"
        )
        raise SettingsError(f"{where} must be {expected}, not {value!r}")
    return value


def _checked_number(where: str, rule: Mapping[str, Any], default: Any, value: Any) -> Any:
    if value is None and rule["optional"]:
        return None
    least, most = rule["least"], rule["most"]
    whole = isinstance(default, int) or (default is None and not where.endswith("learning_rate"))
    if whole:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            limit = f"to {most}" if most < _ANY else "up"
            raise SettingsError(f"{where} must be a whole number from {least} {limit}, not {value!r}")
        return value
    # YAML 1.1 reads 1e-3 (no dot) as text, though everybody means the number.
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    above = where.endswith("learning_rate")
    if not (math.isfinite(number) and (number > least if above else number >= least)):
        limit = f"above {least}" if above else f"from {least} up"
        raise SettingsError(f"{where} must be a number {limit}, not {value!r}")
    return number


def _checked_columns(where: str, value: Any, *, needed: bool) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) and needed else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise SettingsError(f"{where} must be a list of column names, not {value!r}")
    if needed and not names:
        raise SettingsError(f"{where} names no column")
    return tuple(names)


def _checked_model(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{where} must be a mapping of {', '.join(_MODEL_KEYS)}, not {value!r}")
    for key, item in value.items():
        if key not in _MODEL_KEYS:
            raise SettingsError(f"{where}.{key} is unknown; {_nearest(str(key), _MODEL_KEYS)}")
        rate = key == "dropout_rate"
        fits = isinstance(item, int | float) and not isinstance(item, bool)
        most = MOST_LAYERS if key == "num_layers" else LARGEST_SIZE
        whole = isinstance(item, int) and 1 <= item <= most
        if not fits or not (0 <= item < 1 if rate else whole):
            expected = "from 0 to below 1" if rate else f"a whole number from 1 to {most}"
            raise SettingsError(f"{where}.{key} must be {expected}, not {item!r}")
        if key == "d_kv" and item % 2:
            raise SettingsError(f"{where}.{key} must be even (rotary position embedding), not {item}")
    return dict(value)
