#!/usr/bin/env bash
# systemd 252 (Debian bookworm) as process 1 of namespaces; two services with LoadCredential= and ExecReload=, of which one
# has file system bounds too (ProtectSystem=strict).
#
# Guess: every command of a unit gets its credentials, whatever else bounds the unit; a command that checks a configuration
# before a reload can read the password that the service reads.
# Seen: so it is without bounds. With them ExecStart= still has the credential, and ExecReload= is told the same
# CREDENTIALS_DIRECTORY and cannot read the file: what reloads must ask the process that runs.
#
# Needs root, bash, apt-get and dpkg-deb, namespaces and cgroup2; installs nothing outside a temporary folder, which it removes.
set -euo pipefail
folder=$(mktemp -d)
name=finding-$$
tidy='mount -t cgroup2 none "$1/cgroup" && for try in $(seq 50); do
    find "$1/cgroup/$2" -depth -type d -exec rmdir {} + 2>/dev/null; [ -d "$1/cgroup/$2" ] || break; sleep 0.1; done; true'
booted=
trap '[ -z "$booted" ] || kill -KILL "$booted" 2>/dev/null || true; wait 2>/dev/null
    unshare --mount sh -c "$tidy" sh "$folder" "$name" || true; rm -rf --one-file-system "$folder"' EXIT
cd "$folder"
mkdir cgroup
apt-get download --quiet debootstrap 2>/dev/null >&2
dpkg-deb --extract debootstrap_*.deb tools
mirror=$(apt-get indextargets --format '$(LABEL) $(COMPONENT) $(CREATED_BY) $(REPO_URI)' |
    awk '$1 == "Debian" && $2 == "main" && $3 == "Packages" { print $4; exit }')
DEBOOTSTRAP_DIR=$PWD/tools/usr/share/debootstrap tools/usr/sbin/debootstrap --variant=minbase \
    --include=systemd-sysv,dbus bookworm root "$mirror" > debootstrap.log 2>&1 || { tail -5 debootstrap.log >&2; exit 1; }
chroot root dpkg-query --show --showformat '${Package} ${Version}\n' systemd
case "$(chroot root dpkg-query --show --showformat '${Version}' systemd)" in
252.*) ;;
*) echo "another version: look again" >&2; exit 1 ;;
esac
install -m 600 /dev/stdin root/etc/password <<< secret
for unit in systemd-modules-load systemd-sysctl; do ln -s /dev/null "root/etc/systemd/system/$unit.service"; done
install -m 755 /dev/stdin root/usr/local/bin/look <<'LOOK'
#!/bin/sh
echo "$1: variable ${CREDENTIALS_DIRECTORY:-unset}, $(cat "$CREDENTIALS_DIRECTORY/password" 2>/dev/null || echo 'nothing to read')" >> /run/seen/all
LOOK
for unit in plain bounded; do
    cat > "root/etc/systemd/system/$unit.service" <<UNIT
[Service]
User=daemon
LoadCredential=password:/etc/password
ExecStartPre=/usr/local/bin/look "$unit ExecStartPre"
ExecStart=sleep infinity
ExecReload=/usr/local/bin/look "$unit ExecReload"
UNIT
done
printf 'ProtectSystem=strict\nReadWritePaths=/run/seen\n' >> root/etc/systemd/system/bounded.service
boot='set -e
mount -t cgroup2 none "$1/cgroup"; mkdir "$1/cgroup/$2"; echo $$ > "$1/cgroup/$2/cgroup.procs"; umount "$1/cgroup"
exec unshare --cgroup sh -ec "$3" sh "$1"'
inner='mount --bind "$1/root" "$1/root"; cd "$1/root"
mount -t proc proc proc; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 none dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"; done
mount -t tmpfs -o mode=755 none run; install -d -m 777 run/seen
mkdir -p before; pivot_root . before; umount -l before; mount --make-rshared /
exec env -i container=finding PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --show-status=false'
unshare --mount --pid --fork --kill-child --net --uts --ipc sh -c "$boot" sh "$folder" "$name" "$inner" > boot.log 2>&1 &
booted=$!
first=
for _ in $(seq 300); do
    first=$(cut -d ' ' -f 1 "/proc/$booted/task/$booted/children" 2>/dev/null || true)
    [ -n "$first" ] && [ "$(cat "/proc/$first/comm" 2>/dev/null)" = systemd ] && break
    sleep 0.1
done
inside() { nsenter --target "$first" --all --root --wd env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
for _ in $(seq 300); do inside systemctl is-system-running 2>/dev/null | grep -q 'running\|degraded' && break; sleep 0.1; done
for unit in plain bounded; do
    inside systemctl start "$unit"
    inside systemctl reload "$unit"
done
seen=$(inside cat /run/seen/all)
echo "$seen"
expected='plain ExecStartPre: variable /run/credentials/plain.service, secret
plain ExecReload: variable /run/credentials/plain.service, secret
bounded ExecStartPre: variable /run/credentials/bounded.service, secret
bounded ExecReload: variable /run/credentials/bounded.service, nothing to read'
[ "$seen" = "$expected" ] || { echo "another answer than was seen: look again" >&2; exit 1; }
