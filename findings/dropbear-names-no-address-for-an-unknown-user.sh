#!/usr/bin/env bash
# dropbear 2022.83 (Debian 12: 2022.83-1+deb12u3), passwords tried for a user that does not exist.
#
# Guess: every attempt is a line that ends with the client's address, `Login attempt for nonexistent user from
# HOST:PORT`, as `Bad password attempt for 'USER' from HOST:PORT` is for a user that exists; fail2ban's filter for
# dropbear has it so.
# Seen: the line ends behind `user`: it has neither a name nor an address. It is written once a connection, however
# many passwords follow. The address is only in the lines of the same process before and after it: `Child connection
# from` and `Exit before auth from <HOST:PORT>`. Whoever counts attempts by this line's address counts none.
#
# Needs bash, Debian's apt and dpkg, and python3; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
pid=
trap '[ -n "$pid" ] && kill "$pid" 2> /dev/null; wait; rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p lists/partial cache/archives/partial
apt=(apt-get --quiet -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update > /dev/null
"${apt[@]}" download dropbear-bin=2022.83-1+deb12u3 libtomcrypt1=1.18.2-6 libtommath1=1.2.0-6+deb12u1 > /dev/null
for package in ./*.deb; do dpkg --extract "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libtommath.so.1' | head -1)")
export LD_LIBRARY_PATH
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
root/usr/bin/dropbearkey -t ed25519 -f key > /dev/null 2>&1
# In the foreground, logging to stderr; no root, no forwarding, three attempts a connection.
root/usr/sbin/dropbear -F -E -w -j -k -T 3 -r key -P "$folder/pid" -p "127.0.0.1:$port" 2> log &
pid=$!
python3 - "$port" <<'PYTHON'
import os, re, subprocess, sys, time


def wait_for(count, pattern):
    """Waits until so many lines of the log match: at most twenty seconds."""
    for _ in range(200):
        lines = open("log").read().splitlines()
        if sum(bool(re.search(pattern, line)) for line in lines) >= count:
            return lines
        time.sleep(0.1)
    sys.exit(f"{pattern!r} was not logged: {lines}")


wait_for(1, "Not backgrounding")
# dbclient tries the password again until it is sent away.
client = ["root/usr/bin/dbclient", "-y", "-y", "-T", "-p", sys.argv[1], "no-such-user@127.0.0.1", "true"]
environment = {**os.environ, "DROPBEAR_PASSWORD": "wrong", "HOME": os.getcwd()}
for connection in (1, 2):
    while True:
        done = subprocess.run(client, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if "Connection refused" not in done.stderr:
            break
        time.sleep(0.1)
    assert done.returncode != 0, "the user exists"
    lines = wait_for(connection, "Exit before auth")
# The number of the process, the time and the client's port differ from run to run.
seen = [re.sub(r"^\[\d+\] \w+ +\d+ [\d:]+ ", "", re.sub(r"(127\.0\.0\.1):\d+", r"\1:PORT", line)) for line in lines[1:]]
print(*seen, sep="\n")
assert seen == 2 * [
    "Child connection from 127.0.0.1:PORT",
    "Login attempt for nonexistent user",
    "Exit before auth from <127.0.0.1:PORT>: Max auth tries reached - user 'is invalid'",
], "the behaviour changed"
PYTHON
echo "as stated"
