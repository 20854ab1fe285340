"""What moto lacks, one gap a module.

Each module's docstring names the real service's behaviour; its `install` puts the behaviour around one of
moto's own request handlers, where addressing styles and wire protocols are already behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def around(owner: object, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a method (of a class) or a function (of a module) by `wrap(method)`."""
    setattr(owner, name, wrap(getattr(owner, name)))
