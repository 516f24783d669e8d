#!/usr/bin/env bash
# SQLite 3.46.1 (apsw 3.46.1.0 from PyPI), a database in WAL mode on a disk that is full (a tmpfs).
#
# Guess: reading needs no room, so a database that was closed in order can at least be opened with `mode=ro` and read on
# a full disk; and where something does need room, the error is SQLITE_FULL, as it is for a write.
# Seen: neither an ordinary nor a `mode=ro` connection can read a row. The index beside the log (`-shm`) has to be made
# for reading too, and that this fails is told as SQLITE_IOERR with the extended code SQLITE_IOERR_SHMSIZE ("disk I/O
# error"), as damage would be. Two ways lead to the rows: the VFS `unix-excl`, which keeps that index in memory and lets
# no other process in (a write is SQLITE_FULL then, as guessed), and `immutable=1`, which leaves the log unread.
#
# Needs root, bash, util-linux and python3 with venv; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv tools
tools/bin/pip --quiet --disable-pip-version-check install apsw==3.46.1.0
mkdir disk
unshare --mount --propagation private bash -c '
  mount -t tmpfs -o size=1m tmpfs disk
  exec tools/bin/python -
' <<'PYTHON'
import apsw, errno, os

READ_WRITE, READ_ONLY, URI = apsw.SQLITE_OPEN_READWRITE, apsw.SQLITE_OPEN_READONLY, apsw.SQLITE_OPEN_URI
print("SQLite", apsw.sqlite_lib_version())
made = apsw.Connection("disk/base")
assert made.pragma("journal_mode", "wal") == "wal"
made.execute("CREATE TABLE t (v); INSERT INTO t VALUES ('kept')")
made.close()
assert sorted(os.listdir("disk")) == ["base"], "the log and its index are gone where it was closed in order"
with open("disk/fill", "wb", buffering=0) as fill:
    for size in (65536, 4096, 1):
        try:
            while True:
                fill.write(b"0" * size)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def tried(what, *arguments, **named):
    """What comes of reading, and then of writing."""
    connection = apsw.Connection(*arguments, **named)
    found = []
    for statement in ("SELECT v FROM t", "INSERT INTO t VALUES (1)"):
        try:
            found.append(connection.execute(statement).fetchall())
        except apsw.Error as error:
            found.append(apsw.mapping_extended_result_codes.get(error.extendedresult) or apsw.mapping_result_codes[error.result])
    connection.close()
    print(f"{what}: {found}")
    return found


rows = [("kept",)]
refused = "SQLITE_IOERR_SHMSIZE"
assert tried("ordinary", "disk/base", READ_WRITE)[0] == refused
assert tried("mode=ro", "disk/base", READ_ONLY)[0] == refused
assert tried("unix-excl", "disk/base", READ_WRITE, vfs="unix-excl") == [rows, "SQLITE_FULL"]
assert tried("immutable", "file:disk/base?immutable=1", READ_ONLY | URI)[0] == rows
PYTHON
echo "as stated"
