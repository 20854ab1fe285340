"""What the CDK app is told: the settings of one deployment as CDK context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.settings import Settings, load_settings


def stack_context(
    settings: Settings, siblings: Sequence[str], load: Callable[[str], Settings] = load_settings
) -> dict[str, str]:
    """The context of the stack that `settings` and its siblings share.

    Args:
        settings: those of the environment that is deployed.
        siblings: the environments of the same account and region, itself among them.
        load: gives an environment's settings by its name.

    Raises:
        SettingsError: two of them want the one stack otherwise.
    """
    everyone = [settings if name == settings.environment else load(name) for name in siblings]
    context = {
        "environments": ",".join(siblings),
        "availability_zones": str(max(one.availability_zones for one in everyone)),
        "log_retention_days": str(_of_all(everyone, "log_retention_days")),
        "glacier_after_days": str(_of_all(everyone, "glacier_after_days")),
    }
    if email := _of_all(everyone, "notify_email"):
        context["notify_email"] = email
    if hours := _of_all(everyone, "alarm_hours"):
        context["alarm_hours"] = str(hours)
        context["instance_types"] = ",".join(_types(everyone))
    if (nodes := max(one.nodes for one in everyone)) > 1:
        context["nodes"] = str(nodes)
    return context


def _of_all(everyone: Sequence[Settings], key: str) -> Any:
    """What those say that share a stack and say anything; the last to be deployed must not decide alone."""
    said = {one.environment: getattr(one, key) for one in everyone if getattr(one, key)}
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{value!r} in {name}" for name, value in said.items())
        raise SettingsError(f"{key}: {listed}; they share one stack: give them one value")
    return next(iter(said.values()), None)


def _types(all_settings: Sequence[Settings]) -> list[str]:
    """Every type that a launch may end on, each once; an alarm watches one type."""
    ladders = [(one.instance_type, *one.fallback_instance_types) for one in all_settings]
    return list(dict.fromkeys(kind for ladder in ladders for kind in ladder))
