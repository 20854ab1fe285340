"""Render user data from `templates/user_data.sh.j2`: strict, every text shell-quoted by one filter."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from chronos_ec2.errors import SettingsError
from chronos_ec2.workstation.settings import REPOSITORY

USER_DATA_LIMIT: Final = 16 * 1024
"""Bytes of user data that EC2 takes, before base64 (EC2 user guide, "Run commands at launch")."""


def shell_quote(value: object) -> str:
    """Quote one value for POSIX shells; control characters are refused, not quoted.

    Raises:
        SettingsError: the value has a control character, a new line among them.
    """
    text = str(value)
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise SettingsError(f"a value for the user data has a control character: {text!r}")
    # A run id needs no quotes and gets none: the template's guard looks for it as it stands.
    return shlex.quote(text)


def render_user_data(values: Mapping[str, Any]) -> str:
    """Fill the template.

    Raises:
        SettingsError: the result is over EC2's 16 KB, or a value may not stand in it.
        jinja2.UndefinedError: a value is missing.
    """
    environment = Environment(
        loader=FileSystemLoader(REPOSITORY / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["sh"] = shell_quote
    text = environment.get_template("user_data.sh.j2").render(values)
    if len(text.encode()) > USER_DATA_LIMIT:
        raise SettingsError(f"user data is {len(text.encode())} bytes; EC2 takes {USER_DATA_LIMIT}")
    return text
