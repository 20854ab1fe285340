"""Which patches of a batch are computed, and where their states stand."""

from __future__ import annotations

import torch
from torch import Tensor


class Places:
    """The patches of some groups of series: all, or those in which any series of the group has a value.

    A place is a patch of a group. States are `[places, series of a group, …]`, a group's patches behind each
    other; rows are `[rows, patches, …]`, one for each series.

    Places are left out on a CPU and without a compiler alone: their number differs from batch to batch, for
    which a GPU would have to be waited for, and a compiler to compile anew.

    Args:
        filled: which patches hold anything, as 1 and 0: shape [rows, patches].
        group_size: series a group; those of one group are rows behind each other.
    """

    def __init__(self, filled: Tensor, group_size: int) -> None:
        self.patches = filled.shape[1]
        self._groups = len(filled) // group_size
        self._kept: Tensor | None = None
        if not (filled.is_cuda or torch.compiler.is_compiling()):
            used = filled.unflatten(0, (-1, group_size)).amax(dim=1).flatten()
            kept = used.nonzero().squeeze(1)
            self._kept = kept if len(kept) < len(used) else None
        # What is added to the scores of keys: nothing, or so much that they weigh zero.
        self.mask_of_rows = (1.0 - filled) * torch.finfo(filled.dtype).min
        self.mask_of_states = self.take(self.mask_of_rows)

    def take(self, rows: Tensor) -> Tensor:
        """Rows to states."""
        states = rows.unflatten(0, (self._groups, -1)).transpose(1, 2).flatten(0, 1)
        return states if self._kept is None else states.index_select(0, self._kept)

    def spread(self, states: Tensor) -> Tensor:
        """States to rows; zero where there are none."""
        if self._kept is not None:
            everywhere = states.new_zeros(self._groups * self.patches, *states.shape[1:])
            states = everywhere.index_copy(0, self._kept, states)
        return states.unflatten(0, (self._groups, self.patches)).transpose(1, 2).flatten(0, 1)

    def last(self, states: Tensor, count: int) -> Tensor:
        """The states of each group's last `count` patches, none of which is left out."""
        if count == self.patches:
            return states
        if self._kept is None:
            return states.unflatten(0, (self._groups, self.patches))[:, -count:].flatten(0, 1)
        ends = (self._kept % self.patches >= self.patches - count).nonzero().squeeze(1)
        return states.index_select(0, ends)
