#!/usr/bin/env bash
# Prometheus 2.42.0 (Debian bookworm), its promtool, and a valid text of OpenMetrics 1.0 with an `info` and a counter whose
# family has no `_total` in its name, as the standard has it.
#
# Guess: `promtool check metrics` reads what Prometheus of the same package scrapes.
# Seen: Prometheus scrapes the text and has both figures; promtool reads the older text form alone. To it `info` is an
# error, "unknown metric type", and without that row the counter has "no help text", for it looks by the row's name.
#
# Needs bash, apt-get, dpkg-deb, curl and python3; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download --quiet prometheus 2>/dev/null >&2
dpkg-deb --extract prometheus_*.deb root
dpkg-deb --show --showformat '${Package} ${Version}\n' prometheus_*.deb
case "$(dpkg-deb --field prometheus_*.deb Version)" in 2.42.0*) ;; *) echo "another version: look again" >&2; exit 1 ;; esac
printf '%s\n' '# HELP program The release.' '# TYPE program info' 'program_info{version="1"} 1' > with-info
printf '%s\n' '# HELP done Things done.' '# TYPE done counter' 'done_total 3' '# EOF' > without-info
cat with-info without-info > metrics

read -r served listened < <(python3 -c '
import socket
ends = [socket.socket() for _ in range(2)]
[end.bind(("127.0.0.1", 0)) for end in ends]
print(*[end.getsockname()[1] for end in ends])')
python3 - "$served" <<'PYTHON' &
import http.server, sys

class Text(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = open("metrics", "rb").read()
        self.send_response(200)
        self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Text).serve_forever()
PYTHON
pids+=($!)
printf '{"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "a", "static_configs": [{"targets": ["127.0.0.1:%s"]}]}]}' \
    "$served" > prometheus.yml
root/usr/bin/prometheus --config.file=prometheus.yml --storage.tsdb.path=tsdb --web.listen-address="127.0.0.1:$listened" 2> log &
pids+=($!)
scraped=
for _ in $(seq 100); do
    scraped=$(curl --silent --get --data-urlencode 'query=done_total + on () program_info' "http://127.0.0.1:$listened/api/v1/query" || true)
    case "$scraped" in *'"value"'*) break ;; esac
    sleep 0.2
done
echo "Prometheus: done_total + program_info is $(grep -o '"4"' <<< "$scraped" || echo "not there: $scraped")"
whole=$(root/usr/bin/promtool check metrics < metrics 2>&1 || true)
part=$(root/usr/bin/promtool check metrics < without-info 2>&1 || true)
printf 'promtool, the whole: %s\npromtool, without the info: %s\n' "$whole" "$part"
grep -q '"4"' <<< "$scraped" && grep -q 'unknown metric type "info"' <<< "$whole" && grep -q 'done_total no help text' <<< "$part"
