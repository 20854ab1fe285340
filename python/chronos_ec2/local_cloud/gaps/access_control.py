"""Permissions.

Real AWS: a call is refused unless the identity policies of whoever signed it allow each action that it takes
on each resource that it touches, under the policies' conditions: UnauthorizedOperation from EC2, AccessDenied
from the others, with who, what and on which resource in the message. S3 tells those who may not list a bucket
that a missing object is forbidden, not that it is missing. A role can be assumed only by whom it trusts. The
account's own root may do all else.

moto has a check of its own that is off by default, looks at actions alone and takes any condition for a
refusal. Here every call is checked (see `chronos_ec2.local_cloud.access`); instances hold their role's
credentials and nothing else, and the keys that `invoke local.env` prints stand for the account's root.

Not here: policies of resources (moto has S3's), permission boundaries, session policies, organisations,
signatures.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult, BaseResponse
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.s3.exceptions import S3ClientError
from moto.s3.models import s3_backends
from moto.utilities.utils import get_partition

from chronos_ec2.local_cloud.access.call import Call, tag_context
from chronos_ec2.local_cloud.access.callers import Caller, UnknownCaller, caller_of, role_of, trusts
from chronos_ec2.local_cloud.access.needs import needs
from chronos_ec2.local_cloud.access.needs_s3 import S3Call, copy_source, s3_needs
from chronos_ec2.local_cloud.access.policy import Question, allowed
from chronos_ec2.local_cloud.gaps import around

SWITCH: Final = "CHRONOS_LOCAL_IAM"


class _Refused(ServiceException):
    """The error of every service but S3."""


class _RefusedByS3(S3ClientError):
    """S3's error."""


def install(variables: Mapping[str, str] = os.environ) -> None:
    """Check every call, unless CHRONOS_LOCAL_IAM is "off"."""
    if variables.get(SWITCH) == "off":
        return
    around(BaseResponse, "call_action", _checked)
    around(ActionAuthenticatorMixin, "_authenticate_and_authorize_s3_action", _checked_by_s3)


def _checked(call_action: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(call_action)
    def check_and_call(response: Any) -> Any:
        try:
            _require(response)
        except _Refused as refusal:
            _, headers, body = response.serialized(ActionResult(refusal))
            headers["status"] = 403
            return 403, headers, body
        return call_action(response)

    return check_and_call


def _require(response: Any) -> None:
    ec2 = response.service_name == "ec2"
    try:
        caller = caller_of(response.headers, response.current_account, response.region)
    except UnknownCaller as error:
        words = "The security token included in the request is invalid."
        raise _Refused("AuthFailure" if ec2 else "InvalidClientTokenId", words) from error
    if response.service_name == "sts":
        _require_trust(response, caller)
    if caller is None:
        return
    for question in needs(_call(response), _Account(response)):
        if not allowed(caller.policies, question):
            if ec2:
                words = f"You are not authorized to perform this operation. {_sentence(caller, question)}"
                raise _Refused("UnauthorizedOperation", words)
            raise _Refused("AccessDenied", _sentence(caller, question))


def _require_trust(response: Any, caller: Caller | None) -> None:
    """Nobody assumes a role that is not there or does not trust them, not even the account's owner."""
    call = _call(response)
    if call.operation != "AssumeRole":
        return
    account, arn = response.current_account, str(call.parameters["RoleArn"])
    asker = caller or Caller(call.arn("root", service="iam", region=""), ())
    role = role_of(arn, account, response.region)
    if role is None or not trusts(role, asker.arn, account):
        raise _Refused(
            "AccessDenied", f"User: {asker.arn} is not authorized to perform: sts:AssumeRole on {arn}"
        )


def _sentence(caller: Caller, question: Question) -> str:
    """Who may not do what: AWS's own words."""
    on = f" on resource: {question.resource}" if question.resource != "*" else ""
    return (
        f"User: {caller.arn} is not authorized to perform: {question.action}{on} "
        f"because no identity-based policy allows the {question.action} action"
    )


def _call(response: Any) -> Call:
    return Call(
        service=response.boto3_service_name,
        operation=str(response._get_action()),
        parameters=_parameters(response),
        partition=get_partition(response.region),
        region=response.region,
        account=response.current_account,
    )


def _parameters(response: Any) -> dict[str, Any]:
    """The request's parameters as boto3 took them; moto parses them so for some services only."""
    if response.automated_parameter_parsing:
        return dict(response.params)
    before = vars(response).copy()
    try:
        response.parse_parameters(response.normalized_request)
        return dict(response.params)
    finally:
        vars(response).clear()
        vars(response).update(before)


class _Account:
    """What moto knows about the account of a request."""

    def __init__(self, response: Any) -> None:
        self._ec2 = ec2_backends[response.current_account][response.region]
        self._iam = iam_backends[response.current_account][get_partition(response.region)]

    def context_of(self, resource_id: str) -> dict[str, tuple[str, ...]]:
        """A resource's tags, as condition keys."""
        tags = dict(self._ec2.tags.get(resource_id, {}))
        return {**tag_context("ec2:ResourceTag", tags), **tag_context("aws:ResourceTag", tags)}

    def role_in_profile(self, profile: str) -> str:
        """The ARN of the role that a profile carries."""
        found = [one for one in self._iam.instance_profiles.values() if profile in (one.name, one.arn)]
        return str(found[0].roles[0].arn) if found and found[0].roles else "*"


def _checked_by_s3(_moto_has_none: Callable[..., None]) -> Callable[..., None]:
    def check(response: Any, bucket_name: str | None = None, key_name: str | None = None) -> None:
        try:
            caller = caller_of(response.headers, response.current_account, response.region)
        except UnknownCaller as error:
            words = "The AWS Access Key Id you provided does not exist in our records."
            raise _RefusedByS3("InvalidAccessKeyId", words) from error
        if caller is None:
            return
        call = _s3_call(response, bucket_name or "", key_name or "")
        for question in s3_needs(call):
            if not allowed(caller.policies, question):
                raise _RefusedByS3("AccessDenied", _sentence(caller, question))
        _require_listing(response, caller, call)

    return check


def _s3_call(response: Any, bucket: str, key: str) -> S3Call:
    backend = s3_backends[response.current_account][get_partition(response.region)]
    source_bucket, _, source_key = copy_source(response.headers).partition("/")
    source = backend.get_object(source_bucket, source_key) if source_key else None
    return S3Call(
        method=response.method,
        bucket=bucket,
        key=key,
        query={name: str(values[0]) for name, values in response.querystring.items()},
        headers=response.headers,
        source_is_tagged=source is not None and bool(backend.get_object_tagging(source).get("Tags")),
        partition=backend.partition,
    )


def _require_listing(response: Any, caller: Caller, call: S3Call) -> None:
    """A missing object is missing only to those who may list the bucket."""
    path = copy_source(call.headers) if call.method == "PUT" else f"{call.bucket}/{call.key}"
    bucket, _, key = path.partition("/")
    if not key or call.method not in ("GET", "HEAD", "PUT"):
        return
    backend = s3_backends[response.current_account][get_partition(response.region)]
    listing = Question("s3:ListBucket", call.arn(bucket), {"aws:securetransport": ("true",)})
    if backend.get_object(bucket, key) is None and not allowed(caller.policies, listing):
        raise _RefusedByS3("AccessDenied", _sentence(caller, listing))
