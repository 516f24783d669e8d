#!/usr/bin/env bash
# rsyslog 8.2302.0 (Debian 12: 8.2302.0-1+deb12u2), a message of RFC 5424 written in the traditional form.
#
# Guess: what comes in as RFC 5424 and is filed with RSYSLOG_TraditionalFileFormat or RSYSLOG_FileFormat reads as what
# comes in as BSD syslog does: `HOST TAG[PID]: TEXT`.
# Seen: there is no colon: `HOST TAG[PID] TEXT`. The templates write the tag as it came, and only the BSD form carries
# the colon in it. Patterns for a log that end a program's name with a colon, as most do, miss every line that a sender of
# RFC 5424 (`logger -n`, syslog-ng, OPNsense) left there.
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
"${apt[@]}" download rsyslog=8.2302.0-1+deb12u2 libestr0 libfastjson4 liblognorm5 > /dev/null
for package in ./*.deb; do dpkg --extract "$package" root; done
libraries=$(dirname "$(find "$folder/root" -name 'libestr.so.0' | head -1)")
modules=$(dirname "$(find "$folder/root" -name imudp.so | head -1)")
port=$(python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > rsyslog.conf <<CONF
module(load="imudp")
input(type="imudp" address="127.0.0.1" port="$port")
action(type="omfile" file="$folder/traditional" template="RSYSLOG_TraditionalFileFormat")
action(type="omfile" file="$folder/default" template="RSYSLOG_FileFormat")
CONF
LD_LIBRARY_PATH=$libraries root/usr/sbin/rsyslogd -n -f rsyslog.conf -i "$folder/pid" -M "$modules" 2> log &
pid=$!
python3 - "$port" <<'PYTHON'
import os, socket, sys, time

messages = [
    "<38>1 2026-11-29T10:00:00.000000+00:00 box sshd 411 - - Failed password",
    "<38>Nov 29 10:00:00 box sshd[411]: Failed password",
]
sender = socket.socket(type=socket.SOCK_DGRAM)
# Sent again until the listener is there and has written them: at most ten seconds.
for _ in range(100):
    for message in messages:
        sender.sendto(message.encode(), ("127.0.0.1", int(sys.argv[1])))
    time.sleep(0.1)
    if all(os.path.exists(name) and open(name).read().count("\n") >= 2 for name in ("traditional", "default")):
        break
else:
    sys.exit("nothing was written: " + open("log").read())
seen = {name: sorted({line.split(" box ")[1] for line in open(name).read().splitlines()}) for name in ("traditional", "default")}
for name, texts in seen.items():
    print(name, texts)
assert all(texts == ["sshd[411] Failed password", "sshd[411]: Failed password"] for texts in seen.values()), "the behaviour changed"
PYTHON
echo "as stated"
