"""Which permissions a call of S3 needs; S3 has actions of its own, which are not its operations' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from chronos_ec2.local_cloud.access.policy import Question

# Sub-resources of an object and of a bucket, by what stands in the query string.
_OBJECT_READS = {
    "uploadId": "ListMultipartUploadParts",
    "acl": "GetObjectAcl",
    "tagging": "GetObjectTagging",
    "versionId": "GetObjectVersion",
}
_OBJECT_WRITES = {"acl": "PutObjectAcl", "tagging": "PutObjectTagging"}
_OBJECT_DELETES = {"uploadId": "AbortMultipartUpload", "tagging": "DeleteObjectTagging"}
_BUCKET_READS = {
    "uploads": "ListBucketMultipartUploads",
    "location": "GetBucketLocation",
    "lifecycle": "GetLifecycleConfiguration",
    "versioning": "GetBucketVersioning",
    "policy": "GetBucketPolicy",
    "acl": "GetBucketAcl",
    "tagging": "GetBucketTagging",
    "encryption": "GetEncryptionConfiguration",
    "publicAccessBlock": "GetBucketPublicAccessBlock",
    "ownershipControls": "GetBucketOwnershipControls",
    "versions": "ListBucketVersions",
}
_BUCKET_WRITES = {
    "lifecycle": "PutLifecycleConfiguration",
    "versioning": "PutBucketVersioning",
    "policy": "PutBucketPolicy",
    "tagging": "PutBucketTagging",
    "encryption": "PutEncryptionConfiguration",
    "publicAccessBlock": "PutBucketPublicAccessBlock",
}


@dataclass(frozen=True, slots=True)
class S3Call:
    """One request to S3.

    Attributes:
        method: of HTTP.
        bucket, key: "" where the request has none.
        query: the names in the query string with their first values.
        headers: by names as they were sent; looked up by HTTP's rules.
        source_is_tagged: whether the object that is copied carries tags.
    """

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    source_is_tagged: bool = False
    partition: str = "aws"

    def arn(self, path: str) -> str:
        """The ARN of a bucket ("name") or an object ("name/key")."""
        return f"arn:{self.partition}:s3:::{path}"


def s3_needs(call: S3Call) -> list[Question]:
    """Everything that must be allowed for the call to be made."""
    if not call.bucket:
        return [_ask("ListAllMyBuckets", "*")]
    return _of_object(call) if call.key else _of_bucket(call)


def copy_source(headers: Mapping[str, str]) -> str:
    """Bucket and key that a copy reads, "" when the request is none."""
    return unquote(urlsplit(headers.get("x-amz-copy-source", "")).path).lstrip("/")


def _of_object(call: S3Call) -> list[Question]:
    target = call.arn(f"{call.bucket}/{call.key}")
    if call.method in ("GET", "HEAD"):
        return [_ask(_among(_OBJECT_READS, call.query, "GetObject"), target)]
    if call.method == "DELETE":
        asked = [_ask(_among(_OBJECT_DELETES, call.query, "DeleteObject"), target)]
    elif call.method == "PUT":
        asked = [_ask(_among(_OBJECT_WRITES, call.query, "PutObject"), target), *_copied(call, target)]
    else:
        asked = [_ask("RestoreObject" if "restore" in call.query else "PutObject", target)]
    if "x-amz-tagging" in call.headers:
        asked.append(_ask("PutObjectTagging", target))
    # To compare with what is there is to read it.
    if "If-Match" in call.headers:
        asked.append(_ask("GetObject", target))
    return asked


def _copied(call: S3Call, target: str) -> list[Question]:
    source = copy_source(call.headers)
    if not source:
        return []
    asked = [_ask("GetObject", call.arn(source))]
    replaced = call.headers.get("x-amz-tagging-directive", "COPY").upper() == "REPLACE"
    if call.source_is_tagged and not replaced:
        asked += [_ask("GetObjectTagging", call.arn(source)), _ask("PutObjectTagging", target)]
    return asked


def _of_bucket(call: S3Call) -> list[Question]:
    target = call.arn(call.bucket)
    if call.method == "HEAD":
        return [_ask("ListBucket", target)]
    if call.method == "GET":
        context = {"s3:prefix": (call.query["prefix"],)} if call.query.get("prefix") else {}
        return [_ask(_among(_BUCKET_READS, call.query, "ListBucket"), target, context)]
    if call.method == "POST":  # DeleteObjects: the keys are in the body, so leave for all of them is asked
        return [_ask("DeleteObject", f"{target}/*")]
    if call.method == "DELETE":
        return [_ask("DeleteBucketPolicy" if "policy" in call.query else "DeleteBucket", target)]
    return [_ask(_among(_BUCKET_WRITES, call.query, "CreateBucket"), target)]


def _among(names: Mapping[str, str], query: Mapping[str, str], otherwise: str) -> str:
    return next((action for name, action in names.items() if name in query), otherwise)


def _ask(action: str, resource: str, context: Mapping[str, tuple[str, ...]] | None = None) -> Question:
    return Question(f"s3:{action}", resource, {"aws:securetransport": ("true",), **(context or {})})
