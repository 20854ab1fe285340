"""What the CDK app is told: the settings of one deployment as CDK context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chronos_ec2.workstation.settings import Settings, load_settings


def stack_context(
    settings: Settings, siblings: Sequence[str], load: Callable[[str], Settings] = load_settings
) -> dict[str, str]:
    """The context of the stack that `settings` and its siblings share.

    Args:
        settings: those of the environment that is deployed; they hold for the whole stack.
        siblings: the environments of the same account and region, itself among them.
        load: gives an environment's settings by its name.
    """
    context = {
        "environments": ",".join(siblings),
        "availability_zones": str(settings.availability_zones),
        "log_retention_days": str(settings.log_retention_days),
        "glacier_after_days": str(settings.glacier_after_days),
    }
    if settings.notify_email:
        context["notify_email"] = settings.notify_email
    if settings.alarm_hours:
        context["alarm_hours"] = str(settings.alarm_hours)
        context["instance_types"] = ",".join(_types([load(name) for name in siblings]))
    nodes = max([settings.nodes, *(load(name).nodes for name in siblings if name != settings.environment)])
    if nodes > 1:
        context["nodes"] = str(nodes)
    return context


def _types(all_settings: Sequence[Settings]) -> list[str]:
    """Every type that a launch may end on, each once; an alarm watches one type."""
    ladders = [(one.instance_type, *one.fallback_instance_types) for one in all_settings]
    return list(dict.fromkeys(kind for ladder in ladders for kind in ladder))
