#!/usr/bin/env bash
# systemd-journald 252 (Debian 12: 252.39-1~deb12u2), told to flush from /run to /var (SIGUSR1, `journalctl --flush`).
#
# Guess: with `Storage=persistent` the main journald writes to /var/log/journal from its start where that can be
# written; a flush renames the files, or is noticed by their headers.
# Seen: it writes to /run until it is told to flush. The flush copies each entry into a new file with another `file_id`;
# boot, both times and the hash of the entry's fields stay. Whoever knows a file by its header and counts its entries
# reads each of them twice; only those four tell the copies.
#
# Needs root, bash, util-linux, Debian's apt and dpkg, and python3; installs nothing outside a temporary folder, which it
# removes. journald runs in a mount namespace with a /run and a /var/log of its own.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -n "$pid" ] && kill "$pid" 2> /dev/null; wait; rm -rf "$folder"' EXIT
version=252.39-1~deb12u2
cd "$folder"
mkdir -p lists/partial cache/archives/partial own/run/systemd/journal own/run/systemd/journald.conf.d own/run/log/journal own/log/journal
apt=(apt-get --quiet -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update > /dev/null
for package in systemd libsystemd-shared; do
  "${apt[@]}" download "$package=$version" > /dev/null
  dpkg --extract "$package"_*.deb root
done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libsystemd-shared-252.so' | head -1)")
export LD_LIBRARY_PATH
printf '%s\n' '[Journal]' 'Storage=persistent' 'ReadKMsg=no' 'Audit=' > own/run/systemd/journald.conf.d/own.conf
# shellcheck disable=SC2016
unshare --mount --propagation private sh -ec 'mount --bind own/run /run; mount --bind own/log /var/log; exec "$1"' - \
  "$folder/root/lib/systemd/systemd-journald" > own/out 2>&1 &
pid=$!
python3 - "$pid" <<'PYTHON'
import glob, os, signal, socket, struct, sys, time



def wait_for(what, value):
    for _ in range(300):
        found = value()
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"not within 30 s: {what}; {open('own/out').read()}")


def read(path):
    """The file's id, and of each entry of ours its boot, its two times and the hash of its fields."""
    data = open(path, "rb").read()
    word = lambda at: struct.unpack_from("<Q", data, at)[0]
    compact = struct.unpack_from("<I", data, 12)[0] & 16
    entries, array = [], word(176)
    while array:
        size, array_next = word(array + 8), word(array + 16)
        step, form = (4, "<I") if compact else (8, "<Q")
        for at in range(array + 24, array + size, step):
            entry = struct.unpack_from(form, data, at)[0]
            if not entry:
                break
            items = range(entry + 64, entry + word(entry + 8), 4 if compact else 16)
            fields = [struct.unpack_from(form, data, item)[0] for item in items]
            bytes_of = lambda field: data[field + (72 if compact else 64):field + word(field + 8)]
            if any(bytes_of(field).startswith(b"MESSAGE=ours ") for field in fields):
                entries.append((data[entry + 40:entry + 56].hex(), word(entry + 32), word(entry + 24), word(entry + 56)))
        array = array_next
    return data[24:40].hex(), entries


def journals(folder):
    return sorted(glob.glob(f"own/{folder}/journal/*/*.journal"))


wait_for("journald opens its socket", lambda: os.path.exists("own/run/systemd/journal/socket"))
client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
client.connect("own/run/systemd/journal/socket")
for number in range(3):
    client.send(f"MESSAGE=ours {number}\n".encode())
before = wait_for("three entries in /run", lambda: [found for found in map(read, journals("run/log")) if len(found[1]) == 3])
in_var = journals("log")
os.kill(int(sys.argv[1]), signal.SIGUSR1)
after = wait_for("three entries in /var", lambda: [found for found in map(read, journals("log")) if len(found[1]) == 3])
print("in /var before it was told to flush:", in_var)
print("same file id:", before[0][0] == after[0][0])
print("same boot, times and hash:", before[0][1] == after[0][1])
assert (in_var, before[0][0] == after[0][0], before[0][1] == after[0][1]) == ([], False, True), "the behaviour changed"
PYTHON
echo "as stated"
