"""Update of a CloudFormation stack.

Real CloudFormation: exports follow the outputs of the updated template; a bucket without BucketName keeps the
name it was given; a managed policy keeps its ARN and whom it is attached to, and gets its new document as a
new version, which is the default (IAM keeps five versions; here the oldest goes when there are as many).
moto keeps the exports of the first deployment, stumbles over such a bucket's tags, and forgets a resource
whose kind it cannot update, managed policies among them; here another such resource stays as it was.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, Final

from moto.cloudformation import parsing
from moto.cloudformation.models import CloudFormationBackend
from moto.iam.models import ManagedPolicy
from moto.s3.models import FakeBucket

from chronos_ec2.local_cloud.gaps import around

POLICY_VERSIONS: Final = 5


def install() -> None:
    """Make moto's stack updates keep bucket names, renew exports and reach managed policies."""
    around(CloudFormationBackend, "update_stack", _renewing_exports)
    around(parsing, "parse_and_update_resource", _or_as_it_was)
    around(FakeBucket, "update_from_cloudformation_json", _keeping_the_name)
    around(ManagedPolicy, "update_from_cloudformation_json", _by_new_version)


def _renewing_exports(update_stack: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(update_stack)
    def update_and_export(backend: Any, *args: Any, **kwargs: Any) -> Any:
        stack = update_stack(backend, *args, **kwargs)
        for name in [
            name for name, export in backend.exports.items() if export.exporting_stack_id == stack.stack_id
        ]:
            del backend.exports[name]
        backend.exports.update({export.name: export for export in stack.exports})
        return stack

    return update_and_export


def _or_as_it_was(parse_and_update: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(parse_and_update)
    def update_or_keep(logical_id: str, resource_json: Any, resources_map: Any, **kwargs: Any) -> Any:
        updated = parse_and_update(logical_id, resource_json, resources_map, **kwargs)
        return resources_map[logical_id] if updated is None else updated

    return update_or_keep


def _keeping_the_name(update: Callable[..., Any]) -> Any:
    def update_by_name(_owner: type[Any], /, **kwargs: Any) -> Any:
        properties = kwargs["cloudformation_json"]["Properties"]
        properties.setdefault("BucketName", kwargs["original_resource"].name)
        return update(**kwargs)

    return classmethod(update_by_name)


def _by_new_version(_nothing: Callable[..., Any]) -> Any:
    def update_by_version(
        _owner: type[Any], /, original_resource: Any, cloudformation_json: Any, **_kwargs: Any
    ) -> ManagedPolicy:
        policy: ManagedPolicy = original_resource
        if len(policy.versions) >= POLICY_VERSIONS:
            oldest = next(version for version in policy.versions if not version.is_default)
            policy.versions.remove(oldest)
        document = json.dumps(cloudformation_json["Properties"]["PolicyDocument"])
        policy.backend.create_policy_version(policy.arn, document, set_as_default=True)
        return policy

    return classmethod(update_by_version)
