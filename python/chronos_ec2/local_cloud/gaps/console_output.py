"""GetConsoleOutput.

Real EC2: the most recent 64 KB of what the instance wrote to its console, base64 encoded; still there for a
while after termination. moto answers with the same sample text for every instance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.responses.general import General

from chronos_ec2.local_cloud.gaps import around

LIMIT_BYTES = 64 * 1024


def install(read_console: Callable[[str, int], bytes]) -> None:
    """Make moto answer with `read_console(instance_id, limit)`, the last `limit` bytes."""

    def replace(original: Callable[..., Any]) -> Callable[..., ActionResult]:
        @functools.wraps(original)
        def get_console_output(response: Any) -> ActionResult:
            instance = response.ec2_backend.get_instance(response._get_param("InstanceId"))
            text = read_console(instance.id, LIMIT_BYTES).decode("utf-8", errors="replace")
            output = Base64EncodedString.from_raw_string(text)
            return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})

        return get_console_output

    around(General, "get_console_output", replace)
