"""Which columns of the data are what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns that training reads; all others are left alone.

    Raises:
        ValueError: a column has two parts to play, or there is nothing to forecast.
    """

    item_id: str = "item_id"
    timestamp: str = "timestamp"
    targets: tuple[str, ...] = ("target",)
    past_covariates: tuple[str, ...] = ()
    known_covariates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = (self.item_id, self.timestamp, *self.variates)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]} is named twice")
        if not self.targets:
            raise ValueError("no target column is named")

    @property
    def variates(self) -> tuple[str, ...]:
        """The columns with numbers: targets, then past covariates, then known ones."""
        return self.targets + self.past_covariates + self.known_covariates
