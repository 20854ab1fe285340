"""GPU Deep Learning AMIs and the SSM public parameter that names the newest.

Real AWS: Amazon publishes the images under the owner alias `amazon`, and each release moves the public
parameter /aws/service/deeplearning/ami/.../latest/ami-id. moto's own image list has no GPU image and its
public parameters no deep learning ones; it launches unknown images and instance types too, which real EC2
refuses (InvalidAMIID.NotFound, InvalidParameterValue). The list here, image/amis.json, replaces moto's; one
image's name sorts after the newest one's though it is older, since only the creation date tells the newest;
and the newest of all "Deep Learning Base" images is for AWS's own chips, without a driver for a GPU.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

AMIS_FILE: Final = Path(__file__).parents[1] / "image" / "amis.json"
PARAMETER: Final = (
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
)
NAME_PREFIX: Final = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04) "


def select_images() -> None:
    """Point moto at the images and make it check them; must run before moto is imported."""
    os.environ["MOTO_AMIS_PATH"] = str(AMIS_FILE)
    os.environ["MOTO_ENABLE_AMI_VALIDATION"] = "true"
    os.environ["MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION"] = "true"


def newest_image_id() -> str:
    """The id that the public parameter holds."""
    images = [image for image in json.loads(AMIS_FILE.read_text()) if image["name"].startswith(NAME_PREFIX)]
    return str(max(images, key=lambda image: str(image["creation_date"]))["ami_id"])


def install() -> None:
    """Give moto's SSM the public parameter, in every region."""
    from moto.ssm.models import Parameter, ParameterDict

    from chronos_ec2.local_cloud.gaps import around

    def wrap(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def check_with_ours(parameters: Any, key: str) -> None:
            check(parameters, key)
            ours = str(key or "").startswith("/aws/service/deeplearning")
            if ours and not dict.__contains__(parameters, PARAMETER):
                dict.__setitem__(parameters, PARAMETER, [_parameter(Parameter, parameters.account_id)])

        return check_with_ours

    around(ParameterDict, "_check_loading_status", wrap)


def _parameter(kind: Callable[..., Any], account_id: str) -> Any:
    return kind(
        account_id=account_id,
        name=PARAMETER,
        value=newest_image_id(),
        parameter_type="String",
        description=None,
        allowed_pattern=None,
        keyid=None,
        last_modified_date=1793491200.0,
        version=1,
        data_type="text",
    )
