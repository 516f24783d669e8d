#!/usr/bin/env bash
# CrowdSec 1.4.6 (Debian bookworm), the local API with SQLite and a write-ahead log (`use_wal: true`), agents at 200
# connections that post an alert each at about the same time, three times.
#
# Guess: alerts that come together wait for one another, as writers of a database in WAL mode with a busy timeout do; each
# is answered with 201 a little later.
# Seen: many are answered at once with 500, "database is locked": the machine has to send them again. One connection that
# posts as many alerts one after another sees 201 alone.
#
# Needs bash, apt-get, dpkg-deb and python3; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
api=
trap '[ -z "$api" ] || kill "$api" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download --quiet crowdsec 2>/dev/null >&2
dpkg-deb --extract crowdsec_*.deb root
dpkg-deb --show --showformat '${Package} ${Version}\n' crowdsec_*.deb
case "$(dpkg-deb --field crowdsec_*.deb Version)" in 1.4.6-*) ;; *) echo "another version: look again" >&2; exit 1 ;; esac
mkdir data notifications
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > config.yaml <<CONFIG
common: {daemonize: false, log_media: stdout, log_level: error, working_dir: .}
config_paths:
  config_dir: $folder/
  data_dir: $folder/data/
  simulation_path: $folder/root/etc/crowdsec/simulation.yaml
  hub_dir: $folder/root/usr/share/crowdsec/hub/
  index_path: $folder/root/usr/share/crowdsec/hub/.index.json
  notification_dir: $folder/notifications/
  plugin_dir: $folder/root/usr/lib/crowdsec/plugins/
db_config: {log_level: error, type: sqlite, db_path: $folder/data/crowdsec.db, use_wal: true}
api:
  client: {credentials_path: $folder/credentials.yaml}
  server:
    log_level: error
    listen_uri: 127.0.0.1:$port
    profiles_path: $folder/root/etc/crowdsec/profiles.yaml
prometheus: {enabled: false}
CONFIG
root/usr/bin/cscli --config config.yaml machines add agent --password secret --file credentials.yaml 2>/dev/null >&2
root/usr/bin/crowdsec -c config.yaml -no-cs > api.log 2>&1 &
api=$!
python3 - "$port" <<'PYTHON'
import http.client, json, sys, threading, time

port = int(sys.argv[1])
HEADERS = {"Content-Type": "application/json", "User-Agent": "crowdsec/v1.4.6"}


def connect():
    for _ in range(100):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
            return connection
        except OSError:
            time.sleep(0.1)
    sys.exit("the local API does not listen")


def post(connection, path, body):
    connection.request("POST", path, json.dumps(body), HEADERS)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


login = {"machine_id": "agent", "password": "secret", "scenarios": ["a/b"]}
HEADERS["Authorization"] = "Bearer " + post(connect(), "/v1/watchers/login", login)[1]["token"]


def alert(number):
    address = f"203.0.{113 + number // 250}.{number % 250 + 1}"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return [{
        "scenario": "a/b", "scenario_hash": "", "scenario_version": "", "message": "m", "events_count": 1, "events": [],
        "start_at": now, "stop_at": now, "capacity": 0, "leakspeed": "0", "simulated": False, "remediation": True,
        "source": {"scope": "Ip", "value": address, "ip": address},
    }]


one = connect()
alone = {post(one, "/v1/alerts", alert(number))[0] for number in range(200)}
found, start = [], threading.Barrier(200)


def agent(number):
    connection = connect()
    for turn in range(3):
        start.wait()
        found.append(post(connection, "/v1/alerts", alert(1000 * (turn + 1) + number)))


agents = [threading.Thread(target=agent, args=(number,)) for number in range(200)]
for each in agents:
    each.start()
for each in agents:
    each.join()
refused = [answer["message"] for status, answer in found if status == 500]
print(f"one after another: {sorted(alone)}; together: {len(found) - len(refused)} of {len(found)} were taken")
assert alone == {201}
assert refused and any("database is locked" in message for message in refused), found[:3]
PYTHON
echo "as stated"
