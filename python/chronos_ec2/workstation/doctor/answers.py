"""AWS's refusals, by service and operation, and the IAM action that each operation needs."""

from __future__ import annotations

from typing import Final

_DENIED: Final = frozenset(
    {"403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AuthorizationError"}
    | {"AuthorizationErrorException", "UnauthorizedOperation", "UnauthorizedAccess", "Forbidden"}
)
_PREFIXES: Final = {"service-quotas": "servicequotas"}
# Where the action has another name than the operation (Service Authorization Reference, Amazon S3).
_ACTIONS: Final = {
    ("s3", "HeadBucket"): "ListBucket",
    ("s3", "HeadObject"): "GetObject",
    ("s3", "CopyObject"): "PutObject",
    ("s3", "ListObjectsV2"): "ListBucket",
    ("s3", "GetPublicAccessBlock"): "GetBucketPublicAccessBlock",
    ("s3", "GetBucketEncryption"): "GetEncryptionConfiguration",
}


class ApiError(Exception):
    """AWS refused a call.

    Attributes:
        service: boto3's name of the service.
        operation: the API's name of the operation.
        code: the service's code for the refusal.
        message: the service's words.
    """

    def __init__(self, service: str, operation: str, code: str, message: str) -> None:
        super().__init__(f"{service} {operation}: {code}: {message}")
        self.service = service
        self.operation = operation
        self.code = code
        self.message = message

    @property
    def denied(self) -> bool:
        """Whether it was refused for want of a permission."""
        return self.code in _DENIED

    @property
    def action(self) -> str:
        """The IAM action that the call needs."""
        name = _ACTIONS.get((self.service, self.operation), self.operation)
        return f"{_PREFIXES.get(self.service, self.service)}:{name}"


class NotKnown(Exception):
    """Something that several checks need could not be found out.

    Attributes:
        owner: the check that reports why.
        cause: why.
    """

    def __init__(self, owner: str, cause: Exception) -> None:
        super().__init__(f"{owner}: {cause}")
        self.owner = owner
        self.cause = cause
