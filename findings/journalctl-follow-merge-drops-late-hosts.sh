#!/usr/bin/env bash
# journalctl of systemd 252 (Debian 12: 252.39-1~deb12u2), with journal files of two hosts in one folder.
#
# Guess: `journalctl --follow --merge` shows every entry that is added to any of the files, in the order in which
# they are added.
# Seen: an entry whose time stamp is older than that of the last entry shown is never shown, whichever host wrote
# it: not one of a second host whose journal arrives ten seconds late, and not the next of the first host, once the
# second one's clock has been half a second ahead. A plain `journalctl --merge` afterwards shows all. Whoever follows
# a collector of journals in this way loses what comes late or from a clock that is behind, without a word.
#
# Needs bash, Debian's apt and dpkg, and python3; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
version=252.39-1~deb12u2
cd "$folder"
mkdir -p lists/partial cache/archives/partial
apt=(apt-get --quiet -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update > /dev/null
for package in systemd libsystemd-shared systemd-journal-remote; do
  "${apt[@]}" download "$package=$version" > /dev/null
  dpkg --extract "$package"_*.deb root
done
mkdir journal
python3 - <<'PYTHON'
import glob, os, struct, subprocess, sys, threading, time

environment = {**os.environ, "LD_LIBRARY_PATH": os.path.dirname(glob.glob("root/**/libsystemd-shared-252.so", recursive=True)[0])}
remote = glob.glob("root/**/systemd-journal-remote", recursive=True)
remote = next(path for path in remote if os.path.isfile(path) and os.access(path, os.X_OK))
start = int(time.time() * 1e6)
seconds = 1_000_000


def write(file, host, text, after):
    """Adds an entry of a host, so many microseconds after the start by its own clock."""
    fields = {
        "__REALTIME_TIMESTAMP": start + after, "__MONOTONIC_TIMESTAMP": 100 * seconds + after,
        "_BOOT_ID": host * 32, "_MACHINE_ID": host * 32, "MESSAGE": text,
    }
    export = "".join(f"{name}={value}\n" for name, value in fields.items()) + "\n"
    subprocess.run([remote, f"--output=journal/{file}.journal", "-"], input=export.encode(), check=True, capture_output=True, env=environment)


journalctl = ["root/bin/journalctl", "--directory=journal", "--merge", "--output=cat"]
shown = []
news = threading.Condition()


def read(stream):
    for line in stream:
        with news:
            shown.append(line.strip())
            news.notify()


def wait_for(text):
    with news:
        if not news.wait_for(lambda: text in shown, 10):
            sys.exit(f"{text!r} was not shown within 10 s; shown: {shown}")


write("a1", "a", "first of a", 0)
follower = subprocess.Popen([*journalctl, "--follow", "--lines=all"], stdout=subprocess.PIPE, text=True, env=environment)
threading.Thread(target=read, args=(follower.stdout,), daemon=True).start()
wait_for("first of a")
write("b1", "b", "of b, late", -10 * seconds)
write("b2", "b", "of b, ahead", 1 * seconds)
wait_for("of b, ahead")
write("a2", "a", "second of a", seconds // 2)
write("a3", "a", "third of a", 2 * seconds)
wait_for("third of a")
follower.kill()
whole = subprocess.run(journalctl, capture_output=True, text=True, check=True, env=environment).stdout.split("\n")[:-1]
print("followed:", shown)
print("there:   ", whole)
assert shown == ["first of a", "of b, ahead", "third of a"], "the behaviour changed: what is followed"
assert whole == ["of b, late", "first of a", "second of a", "of b, ahead", "third of a"], "the behaviour changed: what is there"
PYTHON
echo "as stated"
