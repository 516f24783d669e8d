#!/usr/bin/env bash
# conmon 2.1.6 (Debian 12: 2.1.6+ds1-1), with the log driver `json-file`.
#
# Guess: conmon writes a container's log for podman, and podman's manual has `json-file` as another name of `k8s-file`;
# so conmon takes the one as the other.
# Seen: with `json-file` it ends with status 1 and "No such log driver json-file", as with any name that it does not
# know, and writes no log; with `k8s-file`, all else equal, it writes the container's line. The other name is podman's
# own, which says `k8s-file` to conmon: whoever starts conmon without podman, as for a test, has to say that too.
#
# Needs bash, Debian's apt and dpkg, and python3; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p lists/partial cache/archives/partial
apt=(apt-get --quiet -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update > /dev/null
"${apt[@]}" download conmon=2.1.6+ds1-1 libglib2.0-0=2.74.6-2+deb12u9 > /dev/null
for package in ./*.deb; do dpkg --extract "$package" root; done
# Stands in for an OCI runtime that is told to create a container: starts a process and files its number. The process
# ends when its line is in the log: after ten seconds at most.
cat > runtime <<'RUNTIME'
#!/bin/sh
while [ $# -gt 0 ]; do
  [ "$1" = --pid-file ] && file=$2
  shift
done
sh -c 'echo hello; for try in $(seq 100); do grep -q hello log 2> /dev/null && exit; sleep 0.1; done' &
echo $! > "$file"
RUNTIME
chmod +x runtime
LD_LIBRARY_PATH=$(dirname "$(find "$folder/root" -name 'libglib-2.0.so.0' | head -1)") python3 - <<'PYTHON'
import os, re, subprocess

name = "0123456789abcdef"
conmon = os.path.abspath("root/usr/bin/conmon")


def run(driver):
    """Its status, what it said, and the lines of the log it wrote without their time."""
    folder = os.path.abspath(driver)
    os.makedirs(folder + "/sockets")
    command = [
        conmon, "--sync", "--cid", name, "--cuuid", name, "--name", "box", "--runtime", os.path.abspath("runtime"),
        "--bundle", folder, "--container-pidfile", folder + "/pid", "--socket-dir-path", folder + "/sockets",
        "--log-path", f"{driver}:{folder}/log",
    ]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    lines = open(folder + "/log").read().splitlines() if os.path.exists(folder + "/log") else None
    return done.returncode, done.stderr.strip(), lines and [re.sub(r"^\S+ ", "TIME ", line) for line in lines]


seen = {driver: run(driver) for driver in ("json-file", "no-driver", "k8s-file")}
for driver, what in seen.items():
    print(f"{driver}:", *what)
assert seen == {
    "json-file": (1, "[conmon:e]: No such log driver json-file", None),
    "no-driver": (1, "[conmon:e]: No such log driver no-driver", None),
    "k8s-file": (0, "", ["TIME stdout F hello"]),
}, "the behaviour changed"
PYTHON
echo "as stated"
