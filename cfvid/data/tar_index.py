"""The index of a tar shard: where its members lie, found by reading headers alone.

Only the bytes of members that hold labels (.cls, .txt, .json) are read. An index is kept in the cache folder and used
again as long as the shard has the same size and times, or behind a URL the same identity.

    CACHE/shards/DIGEST.parquet     name, offset, size, text; named by the shard's place
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet

from cfvid.artifacts import atomic_file, digest_of
from cfvid.errors import CfvidError, DataError, MissingPackage
from cfvid.media.source import is_url, plain_name

logger = logging.getLogger(__name__)

LABEL_SUFFIXES = (".cls", ".txt", ".json")
MAX_LABEL_BYTES = 2**20
_VERSION = 1
_SCHEMA = pa.schema([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("text", pa.string())])
_MAX_HEADER_BYTES = 2**16
"""Of a long name or of pax records, which tarfile reads into memory at once."""
_REMOTE_BLOCK_BYTES = 2**18
"""Read at once behind a URL: headers of small members come together, large members are passed over."""
_NUM_THREADS = 8
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""By protocol, cfvid's extra that installs what fsspec needs for it."""


def read_indexes(shards: Sequence[str], *, cache: Path) -> list[pa.Table]:
    """The index of each shard, scanned where it is not known yet.

    Args:
        shards: paths or URLs.
        cache: where indexes are kept.

    Returns:
        Tables of regular members in the shard's order: name, offset, size, and the text of those that hold labels.

    Raises:
        DataError: when a shard is missing, is no uncompressed tar, is cut short or damaged, or has a member that is
            neither a file nor a folder, or whose name leads out of it.
        MissingPackage: when fsspec needs one for a URL.
    """
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        return list(threads.map(lambda shard: _read_index(shard, cache), shards))


def _read_index(shard: str, cache: Path) -> pa.Table:
    with _told(shard):
        stamp = _stamp(shard)
    path = cache / "shards" / f"{digest_of(shard if is_url(shard) else str(Path(shard).absolute()))[:32]}.parquet"
    with contextlib.suppress(OSError, pa.ArrowException):
        known = pyarrow.parquet.read_table(path)
        if (known.schema.metadata or {}).get(b"stamp") == stamp.encode():
            return known.replace_schema_metadata()
    with _told(shard), _open(shard) as (file, size):
        table = pa.Table.from_pylist(list(_scan(file, size)), schema=_SCHEMA)
    logger.debug("%s: %d members", shard, table.num_rows)
    try:
        with atomic_file(path) as temporary:
            pyarrow.parquet.write_table(table.replace_schema_metadata({"stamp": stamp}), temporary)
    except OSError as error:
        logger.warning("the index of %s cannot be kept: %s", shard, error)
    return table


# ---------------------------------------------------------------------------------------------- places


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it.

    Raises:
        MissingPackage: when fsspec needs one.
        DataError: when it does not know the protocol.
    """
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        raise MissingPackage(
            f"A package is needed to open {url}.",
            why=str(error),
            fix=f"{_install(url)}, or copy the shards to a disk.",
        ) from error
    except ValueError as error:
        raise DataError(f"{url} cannot be opened.", why=str(error)) from error
    return files, path


def _install(url: str) -> str:
    extra = _EXTRAS.get(url.partition("://")[0])
    return f"pip install 'cfvid[{extra}]'" if extra else "Install it"


def _stamp(shard: str) -> str:
    """What changes when the shard does."""
    if not is_url(shard):
        status = Path(shard).stat()
        return json.dumps([_VERSION, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    files, path = file_system(shard)
    return json.dumps([_VERSION, files.size(path), str(files.ukey(path))])


@contextlib.contextmanager
def _open(shard: str) -> Iterator[tuple[BinaryIO, int]]:
    """The shard and its size in bytes."""
    if not is_url(shard):
        with open(shard, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    else:
        files, path = file_system(shard)
        with files.open(path, "rb", block_size=_REMOTE_BLOCK_BYTES) as file:
            yield file, files.size(path)


@contextlib.contextmanager
def _told(shard: str) -> Iterator[None]:
    """Whatever a hostile or absent shard leads to, as an error that names it."""
    try:
        yield
    except CfvidError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"The shard {shard} does not exist.",
            why=str(error.__cause__) if error.__cause__ else None,  # behind a URL: a server that is not there
            fix="Check the path and the numbers in braces.",
        ) from error
    except Exception as error:  # what is behind URLs raises kinds of its own
        of_tar = isinstance(error, tarfile.TarError | OverflowError | RecursionError)
        if not of_tar and not is_url(shard) and not isinstance(error, OSError | ValueError):
            raise
        raise DataError(
            f"The shard {shard} cannot be used.",
            why=str(error) or type(error).__name__,
            fix="See that its server answers, also range requests, or copy the shards to a disk."
            if is_url(shard) and not of_tar
            else "Write it anew as an uncompressed tar of files alone, or leave it out.",
        ) from error


# ---------------------------------------------------------------------------------------------- scanning


class _Headers:
    """A file of which no more is read at once than a header may have, whatever the header says."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header speaks of {size} bytes more of it")
        return self._file.read(size)


def _scan(file: BinaryIO, shard_size: int) -> Iterator[dict[str, Any]]:
    """The regular members; all others but folders are errors."""
    if file.read(2) == b"\x1f\x8b":
        raise tarfile.ReadError("it is compressed: parts of it cannot be read by themselves")
    file.seek(0)
    headers: Any = _Headers(file)
    with tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape") as archive:
        place = -1
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would hold all of them
            if archive.offset <= place:
                raise tarfile.ReadError(f"after {info.name!a} it goes backwards")
            place = archive.offset
            if not info.isdir():
                yield _entry(info, file, shard_size)
        _check_end(file, archive.offset)


def _entry(info: tarfile.TarInfo, file: BinaryIO, shard_size: int) -> dict[str, Any]:
    name = plain_name(info.name)
    if not info.isreg() or info.issparse():
        raise tarfile.ReadError(f"the member {name!a} is no plain file but a link, a device or the like")
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise tarfile.ReadError(f"the member {name!a} leads out of it")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in name):
        raise tarfile.ReadError(f"the name of the member {name!a} is not UTF-8 or has control characters")
    if info.size < 0 or info.offset_data + info.size > shard_size:
        raise tarfile.ReadError(f"it is cut short: the member {name!a} of {info.size} bytes ends behind it")
    text = _text(info, file) if name.lower().endswith(LABEL_SUFFIXES) else None
    return {"name": name, "offset": info.offset_data, "size": info.size, "text": text}


def _text(info: tarfile.TarInfo, file: BinaryIO) -> str:
    if info.size > MAX_LABEL_BYTES:
        raise tarfile.ReadError(f"{info.name!a} has {info.size} bytes; labels have at most {MAX_LABEL_BYTES}")
    file.seek(info.offset_data)
    return file.read(info.size).decode(errors="replace")


def _check_end(file: BinaryIO, offset: int) -> None:
    """tarfile takes a damaged header for the end; the real one is a block of zeros."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut short: it has no end mark")
    if any(block):
        raise tarfile.ReadError(f"the header at byte {offset} is damaged")
