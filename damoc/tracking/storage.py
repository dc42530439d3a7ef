"""Files and objects by one name: a local path or ``s3://bucket/key``; the only module that knows boto3.

Credentials and the endpoint come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_ENDPOINT_URL_S3`` and the rest of the AWS chain). Whatever fails here is an :class:`InfrastructureError`.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from damoc.errors import DamocError, InfrastructureError

_SCHEME = "s3://"
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_DENIED = {"401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
_CREDENTIALS_FIX = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a role) with rights on this bucket"


def is_remote(uri: str) -> bool:
    """Whether the name is an ``s3://`` URI."""
    return uri.startswith(_SCHEME)


def exists(uri: str) -> bool:
    """Whether there is a file or an object of that name.

    Raises:
        InfrastructureError: the object store does not answer or refuses.
    """
    if not is_remote(uri):
        return Path(uri).is_file()
    bucket, key = _split(uri)
    if not key:
        return False
    from botocore.exceptions import ClientError

    with _failures(uri):
        try:
            _client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in _ABSENT:
                return False
            raise
    return True


def read_bytes(uri: str) -> bytes:
    """The content of a file or an object.

    Raises:
        InfrastructureError: it does not exist or cannot be read.
    """
    with _failures(uri):
        if not is_remote(uri):
            return Path(uri).read_bytes()
        bucket, key = _split(uri)
        content = io.BytesIO()
        _client().download_fileobj(bucket, key, content)
        return content.getvalue()


def write_bytes(uri: str, data: bytes) -> None:
    """Writes a whole file or object, or nothing: a reader never sees half of it.

    Raises:
        InfrastructureError: it cannot be written.
    """
    with _failures(uri):
        if not is_remote(uri):
            return _write_file(Path(uri), data)
        bucket, key = _split(uri)
        _client().put_object(Bucket=bucket, Key=key, Body=data)


def list_uris(uri: str) -> list[str]:
    """Every object below a prefix (or file below a folder), or the object itself; sorted, empty when there is none.

    Raises:
        InfrastructureError: the object store does not answer or refuses.
    """
    if not is_remote(uri):
        return sorted(str(path) for path in [Path(uri), *Path(uri).rglob("*")] if path.is_file())
    bucket, key = _split(uri)
    prefix = f"{key.rstrip('/')}/" if key else ""
    with _failures(uri):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ()) if not item["Key"].endswith("/")]
    if not key.endswith("/") and exists(uri):
        keys.append(key)
    return sorted(f"{_SCHEME}{bucket}/{found}" for found in keys)


def upload_tree(folder: Path, uri: str) -> None:
    """Uploads every file below ``folder`` under the prefix ``uri``, streaming.

    Raises:
        InfrastructureError: the object store does not answer or refuses.
    """
    bucket, key = _split(uri)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = "/".join(part for part in (key.rstrip("/"), path.relative_to(folder).as_posix()) if part)
        with _failures(f"{_SCHEME}{bucket}/{target}"):
            _client().upload_file(str(path), bucket, target)


def download_tree(uri: str, folder: Path) -> None:
    """Downloads what :func:`list_uris` lists into ``folder``: all of it, or the folder stays as it was.

    A folder that was there before is replaced; one that another process finished meanwhile is kept.

    Args:
        uri: a prefix, or one object, which then lies in the folder under its own name.
        folder: its parents are created.

    Raises:
        InfrastructureError: there is nothing below the prefix, the store does not answer or the disk is full.
        DamocError: a key would leave the folder.
    """
    bucket, key = _split(uri)
    names = {found: _inside(found, f"{_SCHEME}{bucket}/{key}".rstrip("/")) for found in list_uris(uri)}
    if not names:
        raise InfrastructureError("there is no such object and nothing below this prefix", uri, "check the URI")
    with _failures(str(folder)):
        stale = folder.exists()
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        for found, name in names.items():
            with _failures(str(folder)):
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            with _failures(found):
                _client().download_file(bucket, _split(found)[1], str(scratch / name))
        with _failures(str(folder)):
            if stale:
                shutil.rmtree(folder)
            _rename(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _rename(scratch: Path, folder: Path) -> None:
    scratch.chmod(0o755)
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    if not is_remote(uri) or not bucket:
        raise DamocError("this is not an object's URI", uri, "write s3://bucket/key")
    return bucket, key


def _inside(uri: str, prefix: str) -> str:
    """The object's path below the prefix, refused when it would not stay below a local folder."""
    name = uri.removeprefix(f"{prefix}/") if uri != prefix else uri.rpartition("/")[2]
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise DamocError("the object's key would leave the folder it is downloaded to", uri, "rename the object")
    return name


def _client() -> Any:
    return _client_of(os.getpid())


@lru_cache(maxsize=1)
def _client_of(process: int) -> Any:
    """One client a process: it is safe between threads, but not across a fork."""
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 8},
        connect_timeout=10,
        read_timeout=120,
        max_pool_connections=32,
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client("s3", config=config)


@contextmanager
def _failures(uri: str) -> Iterator[None]:
    """Says a failure of the disk or the object store in damoc's words."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("boto3", "botocore", "s3transfer", "urllib3"):
            raise _store_failure(error, uri) from error
        if isinstance(error, OSError):
            raise _disk_failure(error, uri) from error
        raise


def _disk_failure(error: OSError, uri: str) -> InfrastructureError:
    place = f"{uri} ({error.filename})" if error.filename and str(error.filename) != uri else uri
    if isinstance(error, FileNotFoundError):
        return InfrastructureError("the file does not exist", place, "check the path; run the step that writes it")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfrastructureError("the disk is full", place, "free space, then run again: finished steps are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InfrastructureError("the disk refuses access", place, "choose a folder that you can read and write")
    return InfrastructureError(f"the disk failed ({error.strerror or error})", place, "check the path and the disk")


def _store_failure(error: Exception, uri: str) -> InfrastructureError:
    from botocore import exceptions as botocore

    cause = error.__context__ if isinstance(error.__context__, botocore.ClientError) else error
    code = _code(cause)
    if isinstance(error, botocore.NoCredentialsError | botocore.PartialCredentialsError | botocore.ProfileNotFound):
        return InfrastructureError("there are no credentials for the object store", uri, _CREDENTIALS_FIX)
    if isinstance(error, botocore.HTTPClientError | botocore.ConnectionError):
        fix = "check AWS_ENDPOINT_URL_S3, the network and the proxy settings; finished steps are kept"
        return InfrastructureError(f"the object store cannot be reached ({error})", uri, fix)
    if code == "NoSuchBucket":
        return InfrastructureError("the bucket does not exist", uri, "create it, or correct the bucket's name")
    if code in _ABSENT:
        return InfrastructureError("the object or its bucket does not exist", uri, "check the URI")
    if code in _DENIED:
        return InfrastructureError(f"the object store refuses access ({code})", uri, _CREDENTIALS_FIX)
    what = f"the object store failed ({cause or error})"
    return InfrastructureError(what, uri, "check the object store, then run again: finished steps are kept")


def _code(error: BaseException) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
