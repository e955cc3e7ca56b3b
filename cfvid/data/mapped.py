"""A manifest in a file that several processes map into memory: those of one machine hold it once.

NAME.arrow    Arrow's IPC format, one batch of rows, of the types that a manifest has in memory
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from cfvid.artifacts import atomic_file
from cfvid.data.manifest import Manifest

_ROOTS = b"trusted_roots"


def write_mapped(manifest: Manifest, path: Path) -> None:
    """Write a manifest for `read_mapped`."""
    table = manifest.table.replace_schema_metadata({_ROOTS: json.dumps(manifest.trusted_roots)})
    with atomic_file(path) as temporary, pa.ipc.new_file(pa.OSFile(str(temporary), "wb"), table.schema) as writer:
        writer.write_table(table)


def read_mapped(path: Path) -> Manifest:
    """The manifest in a file, whose rows lie there and not in this process' own memory: the file has to stay."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return Manifest(table, trusted_roots=json.loads(table.schema.metadata[_ROOTS]))
