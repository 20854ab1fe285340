"""S3 conditional writes, atomic.

Real S3: PutObject, CopyObject (the destination) and CompleteMultipartUpload take `If-None-Match: *` (412
PreconditionFailed when the key exists) and `If-Match: ETag` (412 when the ETag is another, 404 NoSuchKey when
there is no object); DeleteObject takes If-Match. The check and the write are one step: of many writers that
name the same condition, one wins.

moto 5.2 checks PutObject and DeleteObject and half of CompleteMultipartUpload, ignores the conditions of
CopyObject, and lets another thread in between check and write. Here a lock a bucket spans both, for every
write, conditional or not.

Not here: 409 ConditionalRequestConflict (writes never overlap), `If-Match: *` on DeleteObject.
"""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from moto.s3.exceptions import MissingKey, PreconditionFailed
from moto.s3.responses import S3Response

from chronos_ec2.local_cloud.gaps import around

_WRITES = ("put_object", "copy_object", "delete_object", "_key_response_post", "_bucket_response_post")
_CONDITIONAL = ("copy_object", "_key_response_post")


class BucketLocks:
    """One lock a bucket, made when first asked for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    def of(self, bucket: str) -> threading.RLock:
        """The bucket's lock."""
        with self._guard:
            return self._locks[bucket]


def install() -> None:
    """Make moto's S3 check what it does not, and hold a lock over check and write."""
    locks = BucketLocks()
    for name in _WRITES:
        around(S3Response, name, functools.partial(_locked, locks, name in _CONDITIONAL))


def _locked(locks: BucketLocks, conditional: bool, write: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(write)
    def locked_write(response: S3Response, *args: Any, **kwargs: Any) -> Any:
        with locks.of(response.bucket_name):
            if conditional and not _starts_multipart(response):
                require_conditions(response)
            return write(response, *args, **kwargs)

    return locked_write


def _starts_multipart(response: S3Response) -> bool:
    return response.method == "POST" and "uploadId" not in response.querystring


def require_conditions(response: S3Response) -> None:
    """Refuse the write unless the destination is what the request's headers say.

    Raises:
        PreconditionFailed: 412.
        MissingKey: 404, for If-Match without an object.
    """
    if_match = response.headers.get("If-Match")
    if_none_match = response.headers.get("If-None-Match")
    if not if_match and not if_none_match:
        return
    key = response.parse_key_name()
    there = response.backend.get_object(response.bucket_name, key)
    if if_none_match == "*" and there is not None:
        raise PreconditionFailed("If-None-Match")
    if not if_match:
        return
    if there is None:
        raise MissingKey(key=key)
    if if_match.strip('"') not in ("*", there.etag.strip('"')):
        raise PreconditionFailed("If-Match")
