#!/usr/bin/env bash
# fail2ban 1.0.2 (Debian 12: 1.0.2-2), a jail with `ignoreip = 192.0.2.1 # our office`.
#
# Guess: what is behind a `#` in a setting is a comment, as a line that begins with one is.
# Seen: only ` ;` begins a comment there (the head of jail.conf says so). `#`, `our` and `office` become entries of the
# list, without a warning as they are read. For an address that is in no earlier entry each of them is looked up as the
# name of a host: only then is there a warning, of each that is none; and where the resolver knows one, as with a search
# domain it may, that host is never banned.
#
# Needs bash, Debian's apt and dpkg, and a python3 before 3.12 (as Debian 12's 3.11: fail2ban 1.0.2 imports asyncore);
# installs nothing outside a temporary folder, which it removes. Looks nothing up: a stand-in for the resolver answers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p lists/partial cache/archives/partial
apt=(apt-get --quiet -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update > /dev/null
"${apt[@]}" download fail2ban=1.0.2-2 > /dev/null
dpkg --extract fail2ban_*.deb root
for mark in '#' ';'; do
  cp -r root/etc/fail2ban "with$mark"
  rm -f "with$mark"/jail.d/*
  touch "with$mark/log"
  cat > "with$mark/jail.local" <<CONF
[sshd]
enabled = true
backend = polling
logpath = $folder/with$mark/log
ignoreip = 192.0.2.1 $mark our office
CONF
done
export PYTHONPATH=$folder/root/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1
python3 - <<'PYTHON'
import ast, socket, subprocess, sys

asked = []


def resolve(name, *rest):
    """Stands in for the resolver: one of the words is a host."""
    if name not in asked:
        asked.append(name)
    if name == "office" and rest[1] == socket.AF_INET:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.7", 0))]
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


socket.getaddrinfo = resolve
from fail2ban.server.filter import Filter
from fail2ban.server.jail import Jail


def read(mark):
    """What the client, which reads the configuration, tells the server to ignore."""
    client = [sys.executable, "root/usr/bin/fail2ban-client", "-c", f"with{mark}", "-d"]
    done = subprocess.run(client, capture_output=True, text=True, check=True)
    assert "ignoreip" not in done.stderr, done.stderr
    commands = [ast.literal_eval(line) for line in done.stdout.splitlines() if "'addignoreip'" in line]
    return [entry for command in commands for entry in command[3:]]


def ignored(entries):
    """Which of three addresses the server ignores, and which names it asked the resolver for."""
    asked.clear()
    server = Filter(Jail("sshd", backend=None))
    server.ignoreSelf = False
    for entry in entries:
        server.addIgnoreIP(entry)
    return [address for address in ("192.0.2.1", "198.51.100.5", "203.0.113.7") if server.inIgnoreIPList(address)], list(asked)


seen = {}
for mark in "#;":
    entries = read(mark)
    addresses, names = ignored(entries)
    seen[mark] = entries, addresses, names
    print(f"behind {mark!r}: entries {entries}, ignored {addresses}, looked up {names}")
assert seen == {
    "#": (["192.0.2.1", "#", "our", "office"], ["192.0.2.1", "203.0.113.7"], ["#", "our", "office"]),
    ";": (["192.0.2.1"], ["192.0.2.1"], []),
}, "the behaviour changed"
PYTHON
echo "as stated"
