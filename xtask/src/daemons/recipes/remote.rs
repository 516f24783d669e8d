//! Private networks, terminals and desktops.

use crate::daemons::recipe::{Case, Port, Recipe, Tools, failures, logins};
use crate::suite::Suite;

const WRONG: Case = Case { name: "a wrong password", refused: 1, tools: Tools::Root, ..Case::DEFAULT };
const UNKNOWN: Case = Case { name: "an unknown user", refused: 1, tools: Tools::Root, ..Case::DEFAULT };
const RIGHT: Case = Case { name: "the right password", let_in: 1, tools: Tools::Root, ..Case::DEFAULT };

/// A certificate, in a file root that has openssl.
macro_rules! certificate {
    ($more:literal) => {
        concat!(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=daemons.example -keyout /etc/key.pem \
             -out /etc/certificate.pem 2>/dev/null\n",
            $more
        )
    };
}

macro_rules! openconnect {
    ($account:literal, $password:literal) => {
        concat!(
            "pin=$(openssl x509 -in /etc/certificate.pem -pubkey -noout | openssl pkey -pubin -outform der | \
             openssl dgst -sha256 -binary | base64)\n",
            "printf '%s\\n' ",
            $password,
            " | openconnect --passwd-on-stdin --non-inter --authenticate --servercert pin-sha256:$pin --user ",
            $account,
            " https://$URL/"
        )
    };
}

/// The client side of telnet's negotiation, refusing all of it; then a login.
macro_rules! telnet {
    ($account:literal, $password:literal) => {
        concat!(
            "exec python3 - $TO ",
            $account,
            " ",
            $password,
            " <<'END'\n",
            "import socket, sys\n",
            "to, account, password = sys.argv[1:]\n",
            "client = socket.create_connection((to, 23), 60)\n",
            "seen = b''\n",
            "def wait(*words):\n",
            "    global seen\n",
            "    while not any(word in seen for word in words):\n",
            "        got = client.recv(4096)\n",
            "        if not got: break\n",
            "        while b'\\xff' in got:\n",
            "            before, _, rest = got.partition(b'\\xff')\n",
            "            if rest[:1] in b'\\xfb\\xfc':\n",
            "                client.sendall(b'\\xff\\xfe' + rest[1:2])\n",
            "            elif rest[:1] in b'\\xfd\\xfe':\n",
            "                client.sendall(b'\\xff\\xfc' + rest[1:2])\n",
            "            elif rest[:1] == b'\\xfa':\n",
            "                rest = rest[rest.find(b'\\xff\\xf0'):]\n",
            "            got = before + rest[2:]\n",
            "        seen += got\n",
            "    print(seen.decode(errors='replace'))\n",
            "    seen = b''\n",
            "wait(b'ogin:')\n",
            "client.sendall(account.encode() + b'\\r\\n')\n",
            "wait(b'assword:')\n",
            "client.sendall(password.encode() + b'\\r\\n')\n",
            "wait(b'incorrect', b'$ ')\n",
            "END\n"
        )
    };
}

macro_rules! openvpn {
    ($account:literal, $password:literal) => {
        concat!(
            "case $TO in *:*) protocol=udp6 ;; *) protocol=udp4 ;; esac\n",
            "login=$(mktemp)\n",
            "printf '%s\\n%s\\n' ",
            $account,
            " ",
            $password,
            " >$login\n",
            "exec 4< <(exec openvpn --client --dev tun --route-nopull --proto $protocol --remote $TO 1194 --nobind \
             --ca /etc/certificate.pem --auth-user-pass $login --auth-retry none --verify-x509-name daemons.example name \
             --verb 3)\n",
            "openvpn=$!\n",
            "while read -r line <&4; do\n",
            "    echo \"$line\"\n",
            "    case $line in *'Initialization Sequence Completed'*) kill $openvpn ;; esac\n",
            "done"
        )
    };
}

/// One REGISTER, and the same again with an answer to the challenge.
macro_rules! register {
    ($account:literal, $password:literal) => {
        concat!(
            "exec python3 - $TO ",
            $account,
            " ",
            $password,
            " <<'END'\n",
            "import hashlib, re, socket, sys\n",
            "to, account, password = sys.argv[1:]\n",
            "client = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, socket.SOCK_DGRAM)\n",
            "client.settimeout(30)\n",
            "client.connect((to, 5060))\n",
            "mine, port = client.getsockname()[:2]\n",
            "if ':' in to: to, mine = f'[{to}]', f'[{mine}]'\n",
            "md5 = lambda text: hashlib.md5(text.encode()).hexdigest()\n",
            "def send(number, more):\n",
            "    client.send('\\r\\n'.join([f'REGISTER sip:{to} SIP/2.0',\n",
            "        f'Via: SIP/2.0/UDP {mine}:{port};branch=z9hG4bK{number}{port}',\n",
            "        f'From: <sip:{account}@{to}>;tag=1', f'To: <sip:{account}@{to}>', f'Call-ID: {port}@x',\n",
            "        f'CSeq: {number} REGISTER', f'Contact: <sip:{account}@{mine}:{port}>', 'Max-Forwards: 70',\n",
            "        *more, 'Content-Length: 0', '', '']).encode())\n",
            "    answer = client.recv(65536).decode()\n",
            "    while answer.startswith('SIP/2.0 100'): answer = client.recv(65536).decode()\n",
            "    return answer\n",
            "challenge = send(1, [])\n",
            "realm, nonce = (re.search(name + '=\"([^\"]*)\"', challenge)[1] for name in ('realm', 'nonce'))\n",
            "opaque = re.search('opaque=\"([^\"]*)\"', challenge)\n",
            "a1, a2 = md5(f'{account}:{realm}:{password}'), md5(f'REGISTER:sip:{to}')\n",
            "answer = md5(f'{a1}:{nonce}:1:x:auth:{a2}')\n",
            "print(send(2, [f'Authorization: Digest username=\"{account}\", realm=\"{realm}\", nonce=\"{nonce}\", '\n",
            "    f'uri=\"sip:{to}\", response=\"{answer}\", algorithm=MD5, qop=auth, nc=1, cnonce=\"x\"'\n",
            "    + (f', opaque=\"{opaque[1]}\"' if opaque else '')]))\n",
            "END\n"
        )
    };
}

/// A desktop that nobody sees. A client whose login is refused is shown so in a picture, and stays.
macro_rules! rdp {
    ($account:literal, $password:literal) => {
        concat!(
            "client=$(command -v xfreerdp || command -v xfreerdp3)\n",
            "timeout 15 xvfb-run -a $client /v:$URL /u:",
            $account,
            " /p:",
            $password,
            " /cert:ignore; test $? = 124 && echo connected to the end"
        )
    };
}

/// It was connected until it was ended.
const CONNECTED: &str = "connected to the end";
const WRONG_RDP: Case = Case { told: CONNECTED, ..WRONG };
const UNKNOWN_RDP: Case = Case { told: CONNECTED, ..UNKNOWN };
const RIGHT_RDP: Case = Case { told: CONNECTED, ..RIGHT };

macro_rules! openvpn_server {
    ($log:literal) => {
        concat!(
            "plugin=$(find /usr/lib -name openvpn-plugin-auth-pam.so | head -n 1)\n",
            "exec openvpn --server 192.168.98.0 255.255.255.0 --dev tun --proto udp6 --port 1194 --ca /etc/certificate.pem \
             --cert /etc/certificate.pem --key /etc/key.pem --dh /etc/dh.pem --verify-client-cert none --duplicate-cn \
             --username-as-common-name --plugin $plugin other --verb 3 ",
            $log
        )
    };
}

const OPENVPN: Recipe = Recipe {
    layer: "openvpn",
    packages: &["openvpn", "openssl"],
    // The server waits for PAM with each, and who waits too long for the server tries again.
    in_turn: true,
    prepare: certificate!("openssl dhparam -dsaparam -out /etc/dh.pem 2048 2>/dev/null"),
    listens: &[Port::Udp(1194)],
    cases: &[
        Case {
            client: openvpn!("$ACCOUNT", "wrong"),
            told: "AUTH_FAILED",
            expected: &[failures(1, 1)],
            ..WRONG
        },
        Case {
            client: openvpn!("$UNKNOWN", "wrong"),
            told: "AUTH_FAILED",
            expected: &[failures(1, 1)],
            ..UNKNOWN
        },
        Case {
            client: openvpn!("$ACCOUNT", "$PASSWORD"),
            told: "Initialization Sequence Completed",
            expected: &[logins(1)],
            ..RIGHT
        },
    ],
    ..Recipe::DEFAULT
};

/// The recipes.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "openvpn", setup: "openvpn-plugin-auth-pam",
        start: openvpn_server!("--log /var/log/openvpn.log"),
        log: Some(("openvpn", "/var/log/openvpn.log")),
        choose: "`logins`, or the filter `openvpn`, which counts wrong certificates too",
        ..OPENVPN
    },
    Recipe {
        name: "openvpn-to-syslog", setup: "the same, to syslog",
        start: openvpn_server!("--syslog ovpn-server"),
        log: Some(("openvpn", "/var/log/syslog")),
        choose: "as `openvpn`",
        ..OPENVPN
    },
    Recipe {
        name: "ocserv", setup: "`auth = \"pam\"`",
        layer: "ocserv",
        packages: &["ocserv", "openconnect", "openssl"],
        prepare: certificate!(
            "cat >/etc/ocserv/ocserv.conf <<END
auth = \"pam\"
tcp-port = 443
run-as-user = nobody
run-as-group = nogroup
socket-file = /run/ocserv-socket
server-cert = /etc/certificate.pem
server-key = /etc/key.pem
isolate-workers = false
max-clients = 16
max-same-clients = 16
device = vpns
ipv4-network = 192.168.99.0/24
dns = 192.0.2.1
END"
        ),
        start: "exec ocserv -f -c /etc/ocserv/ocserv.conf",
        listens: &[Port::Tcp(443)],
        cases: &[
            Case {
                client: openconnect!("$ACCOUNT", "wrong"),
                told: "Authentication failed",
                expected: &[failures(1, 0)],
                ..WRONG
            },
            Case {
                client: openconnect!("$UNKNOWN", "wrong"),
                told: "Authentication failed",
                expected: &[failures(1, 0)],
                ..UNKNOWN
            },
            Case {
                client: openconnect!("$ACCOUNT", "$PASSWORD"),
                told: "COOKIE=",
                expected: &[logins(1)],
                ..RIGHT
            },
        ],
        choose: "`logins` (`services = \"ocserv-sm\"`); there is no filter of ours",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "telnetd", setup: "inetutils-telnetd, with Debian's login",
        layer: "telnetd",
        packages: &["inetutils-telnetd", "openbsd-inetd", "login"],
        prepare: "telnetd=$(command -v telnetd || command -v in.telnetd || find /usr -name '*telnetd' -type f | head -n 1)
        printf 'telnet stream tcp4 nowait root %s telnetd\\ntelnet stream tcp6 nowait root %s telnetd\\n' \
            $telnetd $telnetd >/etc/inetd.conf",
        start: "exec inetd -i /etc/inetd.conf",
        listens: &[Port::Tcp(23)],
        cases: &[
            Case {
                client: telnet!("$ACCOUNT", "wrong"),
                told: "incorrect",
                tools: Tools::Machine,
                expected: &[failures(1, 0)],
                ..WRONG
            },
            Case {
                client: telnet!("$UNKNOWN", "wrong"),
                told: "incorrect",
                tools: Tools::Machine,
                expected: &[failures(1, 0)],
                ..UNKNOWN
            },
            Case {
                client: telnet!("$ACCOUNT", "$PASSWORD"),
                told: "$ ",
                tools: Tools::Machine,
                expected: &[logins(1)],
                ..RIGHT
            },
        ],
        choose: "`logins` (`services = \"login\"`)",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "asterisk",
        setup: "PJSIP, of sid: Debian 12 and 13 have none",
        suites: (Suite::Sid, Suite::Sid),
        layer: "asterisk",
        packages: &["asterisk"],
        prepare: "cat >/etc/asterisk/pjsip.conf <<END
[v4]
type = transport
protocol = udp
bind = 0.0.0.0
[v6]
type = transport
protocol = udp
bind = [::]
[$ACCOUNT]
type = endpoint
auth = $ACCOUNT
aors = $ACCOUNT
[$ACCOUNT]
type = auth
auth_type = userpass
username = $ACCOUNT
password = $PASSWORD
[$ACCOUNT]
type = aor
max_contacts = 9
END
        printf '[logfiles]\\nmessages => notice,warning,error\\n' >/etc/asterisk/logger.conf",
        start: "exec asterisk -f -U asterisk -G asterisk",
        listens: &[Port::Udp(5060)],
        log: Some(("asterisk", "/var/log/asterisk/messages")),
        cases: &[
            Case {
                client: register!("$ACCOUNT", "wrong"),
                told: "401 Unauthorized",
                tools: Tools::Machine,
                expected: &[failures(0, 1)],
                ..WRONG
            },
            Case {
                client: register!("$UNKNOWN", "wrong"),
                told: "401 Unauthorized",
                tools: Tools::Machine,
                expected: &[failures(0, 1)],
                ..UNKNOWN
            },
            Case {
                client: register!("$ACCOUNT", "$PASSWORD"),
                told: "200 OK",
                tools: Tools::Machine,
                expected: &[logins(0)],
                ..RIGHT
            },
        ],
        choose: "the filter `asterisk`; PAM is not asked",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "xrdp",
        layer: "xrdp",
        packages: &["xrdp", "xvfb", "xauth", "freerdp2-x11"],
        packages_since: Some((Suite::Trixie, &["xrdp", "xvfb", "xauth", "freerdp3-x11"])),
        // In sid it is not root, and has no TLS without its key.
        prepare: "usermod -aG ssl-cert xrdp",
        start: "xrdp-sesman --nodaemon & exec xrdp --nodaemon",
        listens: &[Port::Tcp(3389)],
        log: Some(("xrdp", "/var/log/xrdp-sesman.log")),
        cases: &[
            Case {
                client: rdp!("$ACCOUNT", "wrong"),
                expected: &[failures(0, 1).nameless(1), failures(1, 1).since(Suite::Trixie)],
                ..WRONG_RDP
            },
            Case {
                client: rdp!("$UNKNOWN", "wrong"),
                expected: &[failures(0, 1).nameless(1), failures(1, 1).since(Suite::Trixie)],
                ..UNKNOWN_RDP
            },
            Case {
                client: rdp!("$ACCOUNT", "$PASSWORD"),
                expected: &[logins(0), logins(1).since(Suite::Trixie)],
                ..RIGHT_RDP
            },
        ],
        choose: "the filter `xrdp`, or from Debian 13 on `logins` (`services = \"xrdp-sesexec\"`): xrdp 0.9 tells PAM no address",
        ..Recipe::DEFAULT
    },
];
