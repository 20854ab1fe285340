"""The settings of `invoke.yaml`, loaded once into a frozen object.

A flag beats the environment variable `CHRONOS_<KEY>`, which beats `environments.<name>` of the file,
which beats `defaults`. Run as a module it prints the result as JSON, for the Bash scripts.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, get_type_hints

from chronos_ec2.data.columns import Columns
from chronos_ec2.errors import ChronosError, SettingsError
from chronos_ec2.start_model import in_s3
from chronos_ec2.training_settings import (
    RANDOM,
    ChronosConfig,
    LinearConfig,
    WindowConfig,
    read_training_config,
)
from chronos_ec2.workstation.plain_yaml import load_yaml
from chronos_ec2.workstation.setting_values import (
    as_mapping,
    from_text,
    from_yaml,
    parse_assignments,
    yaml_from_text,
)

ENVIRONMENT_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
REPOSITORY: Final = Path(__file__).resolve().parents[3]
SETTINGS_FILE: Final = REPOSITORY / "invoke.yaml"
_CHOICES: Final = {
    "accelerator": ("cuda", "cpu"),
    "environment_format": ("squashfs", "tar.zst", "tar.gz"),
    "trainer": ("chronos", "test", "command"),
    "idle_gpu_action": ("tell", "end"),
    "market": ("on-demand", "spot", "spot-then-on-demand"),
}
_INSTANCE_TYPE: Final = re.compile(r"[a-z0-9-]+\.[a-z0-9-]+")
_LEAST_PATIENCE_WHILE_WAITING: Final = 120
"""Seconds: a launch that waits for capacity renews its claim each minute, with room for a slow answer."""
_PATTERNS: Final = {
    "region": re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]"),
    "aws_profile": re.compile(r"[\w.@+-]*"),
    "instance_type": _INSTANCE_TYPE,
    "spot_max_price": re.compile(r"([0-9]{1,3}(\.[0-9]{1,4})?)?"),
    "ami_id": re.compile(r"(ami-[0-9a-f]+)?"),
    "notify_email": re.compile(r"([\w.+-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)?", re.ASCII),
}
_MINIMUM: Final = {
    "availability_zones": 1,
    "alarm_hours": 0,
    "volume_gb": 8,
    "min_free_disk_gb": 0,
    "heartbeat_seconds": 1,
    "log_upload_seconds": 1,
    "kill_grace_seconds": 0,
    "keep_on_failure_minutes": 0,
    "stale_minutes": 3,
    "sample_seconds": 1,
    "idle_gpu_minutes": 0,
    "claim_patience_seconds": 0,
    "log_retention_days": 1,
    "glacier_after_days": 1,
    "prediction_length": 1,
    "context_length": 1,
    "max_steps": 1,
    "checkpoint_every_steps": 0,
    "nodes": 1,
    "processes": 0,
    "seed": 0,
}
_MOST_NODES: Final = 64
_NOT_IN_A_CLUSTER: Final = re.compile(r"(t[0-9]|mac|m7i-flex|c7i-flex)")
"""Families that EC2 puts in no cluster placement group: those that share a core, and Macs."""
_TRAINING: Final = "training"
_COLUMN_KEYS: Final = ("id_column", "timestamp_column", "target", "past_covariates", "known_covariates")
_OWN_TRAINING_KEYS: Final = {
    **{key: key for key in ("prediction_length", "context_length", "max_steps", "seed")},
    "save_steps": "checkpoint_every_steps",
    "num_steps": "max_steps",
}
TRAINER_CONFIGS: Final[dict[str, type[WindowConfig]]] = {"chronos": ChronosConfig, "test": LinearConfig}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One environment's settings; `invoke.yaml` states the meaning and the unit of each."""

    environment: str
    region: str
    aws_profile: str
    embedded: bool
    availability_zones: int
    alarm_hours: int
    notify_email: str
    instance_type: str
    fallback_instance_types: tuple[str, ...]
    market: str
    spot_max_price: str
    wait_for_capacity_minutes: float
    accelerator: str
    volume_gb: int
    ami_id: str
    ami_parameter: str
    ami_name: str
    max_hours: float
    max_cost_usd: float
    min_free_disk_gb: int
    heartbeat_seconds: int
    log_upload_seconds: int
    kill_grace_seconds: int
    keep_on_failure_minutes: int
    stale_minutes: int
    sample_seconds: int
    idle_gpu_minutes: int
    idle_gpu_action: str
    claim_patience_seconds: int
    outside_switch: bool
    log_retention_days: int
    glacier_after_days: int
    environment_requirements: str
    environment_format: str
    trainer: str
    command: tuple[str, ...]
    prediction_length: int
    context_length: int
    max_steps: int
    checkpoint_every_steps: int
    nodes: int
    processes: int
    seed: int
    training: Mapping[str, Any]

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}: got {getattr(self, key)!r}, need one of {', '.join(allowed)}")
        for key, pattern in _PATTERNS.items():
            if not pattern.fullmatch(getattr(self, key)):
                raise ValueError(f"{key}: {getattr(self, key)!r} does not look like one")
        for key, least in _MINIMUM.items():
            if getattr(self, key) < least:
                raise ValueError(f"{key}: got {getattr(self, key)}, need at least {least}")
        if not 0.05 <= self.max_hours <= 24 * 14:
            raise ValueError(f"max_hours: got {self.max_hours}, need 0.05 to 336 hours")
        if not 0 <= self.max_cost_usd <= 1_000_000:
            raise ValueError(f"max_cost_usd: got {self.max_cost_usd}, need 0 (no cap) to 1000000 US dollars")
        if self.stale_minutes * 60 <= 2 * self.heartbeat_seconds:
            raise ValueError(
                f"stale_minutes: got {self.stale_minutes}, need more than two heartbeats "
                f"({2 * self.heartbeat_seconds} s, heartbeat_seconds): that long a healthy machine is silent"
            )
        self._check_ladder()
        if self.trainer == "command" and not self.command:
            raise ValueError("command: trainer is command, so the command to run is needed")
        self._check_nodes()
        self._check_training()

    def _check_nodes(self) -> None:
        if self.nodes == 1:
            return
        if self.nodes > _MOST_NODES:
            raise ValueError(f"nodes: got {self.nodes}, need at most {_MOST_NODES}")
        if self.trainer == "test":
            raise ValueError("nodes: trainer test trains in one process; take chronos or command")
        for kind in (self.instance_type, *self.fallback_instance_types):
            if _NOT_IN_A_CLUSTER.match(kind):
                raise ValueError(
                    f"nodes: {kind} cannot be in a cluster placement group, as machines that train together "
                    f"are; take another instance_type, as m5.large"
                )

    def _check_training(self) -> None:
        for key in self.training:
            if key in _OWN_TRAINING_KEYS:
                raise ValueError(f"training.{key}: it has a setting of its own, {_OWN_TRAINING_KEYS[key]}")
        config = self._own_training()
        if isinstance(config, ChronosConfig):
            self._check_shares(config)
        _ = self.columns

    def _check_shares(self, config: ChronosConfig) -> None:
        """Of the processes that are known here; how many GPUs a machine has, it finds itself."""
        shares = self.nodes * max(1, self.processes) * config.gradient_accumulation_steps
        if left := config.batch_size % shares:
            raise ValueError(
                f"{_TRAINING}.batch_size: got {config.batch_size}, need a multiple of nodes ({self.nodes}) x "
                f"processes ({max(1, self.processes)}) x gradient_accumulation_steps "
                f"({config.gradient_accumulation_steps}): take {config.batch_size - left + shares}"
            )

    def training_config(self) -> dict[str, Any]:
        """The `training_config` of a run: the settings that have a place of their own, and `training`."""
        return {
            "prediction_length": self.prediction_length,
            "context_length": self.context_length,
            "max_steps": self.max_steps,
            "seed": self.seed,
            **({"save_steps": self.checkpoint_every_steps} if self.checkpoint_every_steps else {}),
            **self.training,
        }

    def _check_ladder(self) -> None:
        for item in self.fallback_instance_types:
            if not _INSTANCE_TYPE.fullmatch(item):
                raise ValueError(f"fallback_instance_types: {item!r} does not look like an instance type")
        if self.spot_max_price and not float(self.spot_max_price) > 0:
            raise ValueError("spot_max_price: need more than 0 USD an hour; empty: EC2's own cap")
        minutes = self.wait_for_capacity_minutes
        if not 0 <= minutes <= 7 * 24 * 60:
            raise ValueError(f"wait_for_capacity_minutes: got {minutes}, need 0 to 10080 minutes")
        if minutes and self.claim_patience_seconds < _LEAST_PATIENCE_WHILE_WAITING:
            raise ValueError(
                f"claim_patience_seconds: got {self.claim_patience_seconds}, need at least "
                f"{_LEAST_PATIENCE_WHILE_WAITING} while a launch waits for capacity, or others take its claim"
            )

    @property
    def columns(self) -> Columns:
        """The columns of the data that training reads."""
        given = {key: value for key, value in self.training.items() if key in _COLUMN_KEYS}
        return read_training_config(WindowConfig, given, _TRAINING).columns

    @property
    def start_model(self) -> str:
        """The S3 URI of the model that training starts from; empty where it starts from random weights.

        Raises:
            SettingsError: a folder is named: no instance has it.
        """
        if self.trainer != "chronos":
            return ""
        model_id = read_training_config(ChronosConfig, self.training_config(), _TRAINING).model_id
        if model_id != RANDOM and not in_s3(model_id):
            raise SettingsError(
                f"{_TRAINING}.model_id: {model_id} is a folder of this machine, which no instance has; "
                f"invoke upload --model {model_id} sends it and prints the model_id to use"
            )
        return "" if model_id == RANDOM else model_id

    @property
    def shortest_series(self) -> int:
        """Rows a series needs to be trained on; a command knows itself what it needs."""
        config = self._own_training()
        return 1 if config is None else config.min_length

    @property
    def held_out_rows(self) -> int:
        """The last rows of each series, which the forecast is scored by; a command scores as it likes."""
        config = self._own_training()
        return 0 if config is None else config.prediction_length

    def _own_training(self) -> WindowConfig | None:
        config = TRAINER_CONFIGS.get(self.trainer)
        return None if config is None else read_training_config(config, self.training_config(), _TRAINING)


_TYPES: Final = get_type_hints(Settings)
KEYS: Final = tuple(field.name for field in fields(Settings) if field.name != "environment")


def check_environment_name(name: str) -> str:
    """Return the name if it may stand in a key, a tag and a shell word.

    Raises:
        SettingsError: it is not `[a-z][a-z0-9-]{0,31}`, or it is a name that the bucket uses itself.
    """
    if not ENVIRONMENT_NAME.fullmatch(name):
        raise SettingsError(
            f"environment {name!r} is not a name: use a lower-case letter, then up to 31 of a-z, 0-9 and '-'"
        )
    if name in ("logs", "cached-datasets"):
        raise SettingsError(f"environment {name!r} is a prefix that the bucket itself uses; pick another")
    return name


def load_settings(
    environment: str | None = None,
    overrides: Mapping[str, str] | None = None,
    *,
    variables: Mapping[str, str] = os.environ,
    file: Path = SETTINGS_FILE,
) -> Settings:
    """Resolve one environment's settings.

    Args:
        environment: its name; None means `default_environment` (or CHRONOS_ENV).
        overrides: values of flags, as text.
        variables: the process environment.
        file: the settings file.

    Raises:
        SettingsError: unknown environment or key, wrong type, value out of range.
    """
    document = _read_document(file)
    default = variables.get("CHRONOS_ENV") or str(document.get("default_environment", "local"))
    name = check_environment_name(default if environment is None else environment)
    environments = as_mapping(document.get("environments"), f"{file.name}: chronos.environments")
    if name not in environments:
        known = ", ".join(sorted(map(str, environments)))
        raise SettingsError(
            f"environment {name!r} is not in {file.name}; known: {known}. "
            f"Add it under chronos.environments (an empty mapping is enough)"
        )
    values: dict[str, Any] = {}
    for where, layer in (
        ("chronos.defaults", document.get("defaults")),
        (f"chronos.environments.{name}", environments[name]),
    ):
        for key, value in as_mapping(layer, f"{file.name}: {where}").items():
            _require_known(str(key), f"{file.name}: {where}")
            typed = from_yaml(_TYPES[str(key)], value, f"{file.name}: {where}.{key}")
            # An environment's training settings come over the defaults' one by one.
            values[str(key)] = {**values.get(_TRAINING, {}), **typed} if key == _TRAINING else typed
    _apply_text(values, _from_variables(variables))
    _apply_text(values, overrides or {}, flags=True)
    if missing := [key for key in KEYS if key not in values]:
        raise SettingsError(f"{file.name}: chronos.defaults lacks {', '.join(missing)}")
    try:
        return Settings(environment=name, **values)
    except (SettingsError, ValueError) as error:
        raise SettingsError(f"setting for environment {name!r}: {error}") from error


def environment_names(*, file: Path = SETTINGS_FILE) -> list[str]:
    """Every environment of the settings file, in its order."""
    return [
        check_environment_name(str(name))
        for name in as_mapping(_read_document(file).get("environments"), f"{file.name}: chronos.environments")
    ]


def sibling_environments(
    settings: Settings, *, variables: Mapping[str, str] = os.environ, file: Path = SETTINGS_FILE
) -> list[str]:
    """The environments that live in the same account and region, and so share the stack."""
    names = as_mapping(_read_document(file).get("environments"), f"{file.name}: chronos.environments")
    home = (settings.embedded, settings.aws_profile, settings.region)
    found = {settings.environment}
    for name in names:
        other = load_settings(str(name), variables=variables, file=file)
        if (other.embedded, other.aws_profile, other.region) == home:
            found.add(str(name))
    return sorted(found)


def _read_document(file: Path) -> dict[str, Any]:
    try:
        document = load_yaml(file.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from error
    chronos = as_mapping(as_mapping(document, file.name).get("chronos"), f"{file.name}: chronos")
    for key in chronos:
        if key not in ("default_environment", "defaults", "environments"):
            raise SettingsError(f"{file.name}: chronos.{key} is not known")
    return chronos


def _require_known(key: str, where: str) -> None:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(KEYS)}"
        raise SettingsError(f"{where}: unknown setting {key!r}{hint}")


def _from_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The settings among the environment variables; a slip of the pen is refused, other names are left."""
    named = {f"CHRONOS_{key.upper()}": key for key in KEYS}
    for name in variables:
        if name.startswith("CHRONOS_") and name not in named:
            for near in difflib.get_close_matches(name.upper(), named, n=1, cutoff=0.9):
                raise SettingsError(f"variable {name} sets nothing; did you mean {near}?")
    return {key: variables[name] for name, key in named.items() if name in variables}


def _apply_text(values: dict[str, Any], texts: Mapping[str, str], *, flags: bool = False) -> None:
    """Put flags' or environment variables' texts over the values of the file."""
    for key, text in texts.items():
        where = f"--set {key}" if flags else f"CHRONOS_{key.upper()}"
        group, _, name = key.partition(".")
        if group == _TRAINING and name:
            values[group] = {**values.get(group, {}), name: yaml_from_text(text, where)}
            continue
        _require_known(key, where)
        values[key] = from_text(_TYPES[key], text, where)


def main(argv: list[str] | None = None) -> int:
    """Print one environment's settings as JSON; exit code 26 with a line of text when they are wrong."""
    parser = argparse.ArgumentParser(prog="settings", description=__doc__)
    parser.add_argument("--env", help="environment; default: the settings file's default_environment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(arguments.env, parse_assignments(arguments.assignments))
    except ChronosError as error:
        print(f"settings: {error}", file=sys.stderr)
        return int(error.exit_code)
    print(json.dumps(asdict(settings)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
