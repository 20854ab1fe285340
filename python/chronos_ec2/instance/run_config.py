"""A run's `config.yaml`: read, checked and frozen."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import yaml

from chronos_ec2.errors import SettingsError

TRAINERS: Final = ("chronos", "test", "command")
ACCELERATORS: Final = ("cpu", "cuda")
RUN_ID: Final = re.compile(r"\d{4}-\d{2}-\d{2}-\d{6}", re.ASCII)
ENVIRONMENT: Final = re.compile(r"[a-z][a-z0-9-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What one run was asked to do.

    Attributes:
        run_id: UTC `YYYY-MM-DD-HHMMSS`.
        environment: `[a-z][a-z0-9-]{0,31}`.
        accelerator: `cpu` or `cuda`; has no default, because a CPU run is asked for and never guessed.
        trainer: `chronos`, `test` (the linear quantile model) or `command`.
        nodes: machines that train together.
        processes: processes of each machine that train Chronos together; 0: one for each GPU.
        command: what `trainer: command` runs; the wrapper's help lists the placeholders in it.
        min_free_disk_gb: GB of 10^9 bytes that the preflight wants free.
        heartbeat_seconds: pause between two updates of the state file.
        checkpoint_every_steps: how often a trainer of the user's own saves; 0 when it does not say.
        seed: passed on to the trainer.
        training_config: the trainer's own settings; the trainer checks them.
    """

    run_id: str
    environment: str
    accelerator: str
    trainer: str = "test"
    nodes: int = 1
    processes: int = 0
    command: tuple[str, ...] = ()
    min_free_disk_gb: float = 20.0
    heartbeat_seconds: float = 15.0
    checkpoint_every_steps: int = 0
    seed: int = 0
    training_config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, raw: object, source: str) -> RunConfig:
        """Check a decoded config; `source` is what messages call it.

        Raises:
            SettingsError: names the source, the key and what it may be.
        """
        if not isinstance(raw, dict):
            raise SettingsError(f"{source}: expected a mapping of settings, got {type(raw).__name__}")
        known = [entry.name for entry in fields(cls)]
        for key in raw:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
                raise SettingsError(f"{source}: unknown key {key!r}; {hint}")
        given = _Reader(raw, source)
        config = cls(
            run_id=given.text("run_id", pattern=RUN_ID),
            environment=given.text("environment", pattern=ENVIRONMENT),
            accelerator=given.text("accelerator", choices=ACCELERATORS),
            trainer=given.text("trainer", default="test", choices=TRAINERS),
            nodes=given.whole("nodes", 1),
            processes=given.whole("processes", 0),
            command=given.strings("command"),
            min_free_disk_gb=given.number("min_free_disk_gb", 20.0, minimum=0.0),
            heartbeat_seconds=given.number("heartbeat_seconds", 15.0, minimum=0.1),
            checkpoint_every_steps=given.whole("checkpoint_every_steps", 0),
            seed=given.whole("seed", 0),
            training_config=given.mapping("training_config"),
        )
        if config.trainer == "command" and not config.command:
            raise SettingsError(f"{source}: trainer is command, so command is needed, a list of strings")
        return config


def load_run_config(path: Path) -> RunConfig:
    """Read a run's config.yaml.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or a setting is off.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not YAML: {error}") from error
    return RunConfig.from_mapping(raw, str(path))


@dataclass(frozen=True, slots=True)
class _Reader:
    raw: Mapping[str, Any]
    source: str

    def _wrong(self, key: str, expected: str) -> SettingsError:
        return SettingsError(f"{self.source}: {key} is {self.raw.get(key)!r}, expected {expected}")

    def text(
        self,
        key: str,
        *,
        default: str | None = None,
        choices: tuple[str, ...] = (),
        pattern: re.Pattern[str] | None = None,
    ) -> str:
        value = self.raw.get(key, default)
        expected = " or ".join(choices) or (pattern.pattern if pattern else "text")
        if value is None and key not in self.raw:
            raise SettingsError(f"{self.source}: {key} is missing, expected {expected}")
        fits = isinstance(value, str) and (not choices or value in choices)
        if not isinstance(value, str) or not fits or (pattern and not pattern.fullmatch(value)):
            raise self._wrong(key, expected)
        return value

    def number(self, key: str, default: float, *, minimum: float) -> float:
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, f"a number from {minimum:g}")
        if not minimum <= value < 1e9:
            raise self._wrong(key, f"a number from {minimum:g}")
        return float(value)

    def whole(self, key: str, default: int) -> int:
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(key, "a whole number from 0")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.raw.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise self._wrong(key, 'a list of strings (write numbers as "8")')
        return tuple(value)

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.raw.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise self._wrong(key, "a mapping of settings")
        return value
