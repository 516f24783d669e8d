#!/usr/bin/env bash
# Linux-PAM 1.5.2 (Debian 12: 1.5.2-6+deb12u2), pam_unix with a right and a wrong password.
#
# Guess: a module calls `pam_fail_delay` when it refuses a password, as the function's name says; whoever watches its
# calls sees the refusals.
# Seen: pam_unix calls it before it looks at the password. The application's own delay function (item PAM_FAIL_DELAY),
# which libpam calls at the end of each pam_authenticate, is told of a delay of one to three seconds after a right
# password as after a wrong one. With the module's option `nodelay` it is told of none, after either.
#
# Needs root, bash, util-linux, Debian's apt and dpkg, and python3; installs nothing outside a temporary folder, which it
# removes. The accounts are laid over /etc/passwd and /etc/shadow in a mount namespace of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
version=1.5.2-6+deb12u2
cd "$folder"
mkdir -p lists/partial cache/archives/partial conf
apt=(apt-get --quiet -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update > /dev/null
"${apt[@]}" download "libpam0g=$version" "libpam-modules=$version" > /dev/null
for package in ./*.deb; do dpkg --extract "$package" root; done
# The password of `guest` is `right`.
printf '%s\n' 'root:x:0:0::/root:/bin/sh' 'guest:x:4242:4242::/nonexistent:/bin/sh' > passwd
printf '%s\n' 'root:*:19000::::::' 'guest:$6$findings$FzcSFyncDRpTr59a4LAuKN0usASbSAIaCl7aOlh8Vm8sITOTYTLBfYkA4ONDzwTVH.mcAyY3/4N3/0mCATuRL.:19000::::::' > shadow
for service in plain nodelay; do
  option=$([ "$service" = plain ] || echo nodelay)
  echo "auth required $(find "$folder/root" -name pam_unix.so) $option" > "conf/$service"
done
LIBPAM=$(find "$folder/root" -name 'libpam.so.0')
export LIBPAM
unshare --mount --propagation private bash -c '
  mount --bind passwd /etc/passwd
  mount --bind shadow /etc/shadow
  exec python3 -
' <<'PYTHON'
import ctypes, os

PAM_SUCCESS, PAM_AUTH_ERR, PAM_FAIL_DELAY = 0, 7, 10
libc = ctypes.CDLL(None)
libc.strdup.restype, libc.calloc.restype = ctypes.c_void_p, ctypes.c_void_p
pam = ctypes.CDLL(os.environ["LIBPAM"])


class Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("code", ctypes.c_int)]


Talk = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
Delay = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


class Conversation(ctypes.Structure):
    _fields_ = [("talk", Talk), ("data", ctypes.c_void_p)]


def attempt(service, password):
    """What pam_authenticate returned, and what the delay function was called with: result, delay in microseconds."""
    asked = []

    def talk(count, _messages, responses, _data):
        responses[0] = libc.calloc(count, ctypes.sizeof(Response))
        Response.from_address(responses[0]).text = libc.strdup(password)
        return PAM_SUCCESS

    conversation = Conversation(Talk(talk), None)
    delay = Delay(lambda result, microseconds, _data: asked.append((result, "1 to 3 s" if 1 <= microseconds / 1e6 <= 3 else microseconds)))
    handle = ctypes.c_void_p()
    begun = pam.pam_start_confdir(service, b"guest", ctypes.byref(conversation), b"conf", ctypes.byref(handle))
    assert begun == PAM_SUCCESS, begun
    assert pam.pam_set_item(handle, PAM_FAIL_DELAY, ctypes.cast(delay, ctypes.c_void_p)) == PAM_SUCCESS
    result = pam.pam_authenticate(handle, 0)
    pam.pam_end(handle, result)
    return result, asked


seen = {(service, word): attempt(service.encode(), word.encode()) for service in ("plain", "nodelay") for word in ("right", "wrong")}
for (service, word), (result, asked) in seen.items():
    print(f"{service:8} {word}: pam_authenticate {result}, delay function called with {asked}")
assert seen == {
    ("plain", "right"): (PAM_SUCCESS, [(PAM_SUCCESS, "1 to 3 s")]),
    ("plain", "wrong"): (PAM_AUTH_ERR, [(PAM_AUTH_ERR, "1 to 3 s")]),
    ("nodelay", "right"): (PAM_SUCCESS, [(PAM_SUCCESS, 0)]),
    ("nodelay", "wrong"): (PAM_AUTH_ERR, [(PAM_AUTH_ERR, 0)]),
}, "the behaviour changed"
PYTHON
echo "as stated"
