"""What a launch on the spot market asks of a trainer: that it saves, and says how often."""

from __future__ import annotations

from chronos_ec2.errors import SettingsError
from chronos_ec2.training_settings import WindowConfig
from chronos_ec2.workstation.pools import ladder_markets
from chronos_ec2.workstation.settings import Settings


def checkpoint_cadence(settings: Settings) -> int | None:
    """Steps from one checkpoint to the next; None when nobody knows."""
    if settings.checkpoint_every_steps:
        return settings.checkpoint_every_steps
    return None if settings.trainer == "command" else WindowConfig().save_steps


def require_cadence(settings: Settings) -> None:
    """Refuse a launch that may get a spot machine for a trainer that does not say how often it saves.

    Raises:
        SettingsError: says what an interruption would cost, and what to do.
    """
    if "spot" not in ladder_markets(settings) or checkpoint_cadence(settings) is not None:
        return
    raise SettingsError(
        f"market {settings.market}: EC2 takes spot machines back, two minutes after a notice at best, and "
        f"nobody says how often this trainer saves (trainer: {settings.trainer}, checkpoint_every_steps: 0). "
        f"An interruption would lose all the work since the launch, up to {settings.max_hours:g} hours of it "
        "(max_hours), on average half. Have the command save to {checkpoints}/checkpoint-STEP and say how "
        "often: --set checkpoint_every_steps=N, then N steps are lost at most; or launch with "
        "--set market=on-demand"
    )


def expected_loss(settings: Settings) -> str | None:
    """What an interruption costs, for a person; None on a launch that stays off the spot market."""
    steps = checkpoint_cadence(settings)
    if "spot" not in ladder_markets(settings) or steps is None:
        return None
    return (
        f"a spot machine may be taken back: a checkpoint every {steps} steps, so an interruption that comes "
        f"without its notice loses {steps} steps at most, {steps // 2} on average"
    )
