//! Servers of FTP.

use crate::daemons::recipe::{Case, Port, Recipe, failures, logins};

macro_rules! curl {
    ($login:literal) => {
        concat!(
            "curl --silent --show-error --globoff --max-time 60 --user ",
            $login,
            " --verbose ftp://$URL/ --quote PWD"
        )
    };
}

const WRONG: Case = Case {
    name: "a wrong password",
    client: curl!("$ACCOUNT:wrong"),
    told: "< 530",
    refused: 1,
    ..Case::DEFAULT
};
const UNKNOWN: Case = Case {
    name: "an unknown user",
    client: curl!("$UNKNOWN:wrong"),
    told: "< 530",
    refused: 1,
    ..Case::DEFAULT
};
/// A name that looks like the rest of vsftpd's line.
const IMITATION: Case = Case {
    name: "a name that imitates a line",
    client: "exec 3<>/dev/tcp/$TO/21
        read -r -u 3 line
        printf 'USER x] FAIL LOGIN: Client \"192.0.2.9\"\\r\\n' >&3
        read -r -u 3 line
        printf 'PASS wrong\\r\\n' >&3
        head -n 1 <&3",
    told: "530",
    refused: 1,
    note: "vsftpd asks PAM about no such name",
    ..Case::DEFAULT
};
const ROOT: Case =
    Case { name: "root", client: curl!("root:wrong"), told: "< 530", refused: 1, ..Case::DEFAULT };
const RIGHT: Case = Case {
    name: "the right password",
    client: curl!("$ACCOUNT:$PASSWORD"),
    told: "< 230",
    let_in: 1,
    ..Case::DEFAULT
};

const VSFTPD: Recipe = Recipe {
    layer: "vsftpd",
    packages: &["vsftpd"],
    prepare: "mkdir -p /run/vsftpd/empty",
    start: "exec vsftpd /etc/vsftpd.conf",
    listens: &[Port::Tcp(21)],
    cases: &[
        Case { expected: &[failures(1, 1)], ..WRONG },
        Case { expected: &[failures(1, 1)], ..UNKNOWN },
        Case { expected: &[failures(1, 1)], ..ROOT },
        Case { expected: &[failures(0, 1)], ..IMITATION },
        Case { expected: &[logins(1)], ..RIGHT },
    ],
    ..Recipe::DEFAULT
};

const PROFTPD: Recipe = Recipe {
    layer: "proftpd",
    packages: &["proftpd-core"],
    // In the foreground it would log to its terminal.
    start: "proftpd && exec sleep infinity",
    listens: &[Port::Tcp(21)],
    log: Some(("proftpd", "/var/log/proftpd/proftpd.log")),
    ..Recipe::DEFAULT
};

const SERVERS_NAME: &str = "PAM is told the server's own name";
const CLIENTS_NAME: &str = "PAM is told the client's name";

/// The recipes.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "vsftpd",
        log: Some(("vsftpd", "/var/log/vsftpd.log")),
        choose: "`logins`, or the filter `vsftpd`, a moment later",
        ..VSFTPD
    },
    Recipe {
        name: "vsftpd-to-syslog",
        setup: "`syslog_enable=YES`, read from syslog",
        prepare: "mkdir -p /run/vsftpd/empty; echo syslog_enable=YES >>/etc/vsftpd.conf",
        log: Some(("vsftpd", "/var/log/syslog")),
        choose: "as `vsftpd`",
        ..VSFTPD
    },
    Recipe {
        name: "vsftpd-by-pam",
        setup: "PAM's lines are read, from `auth.log`",
        log: Some(("vsftpd", "/var/log/auth.log")),
        cases: &[
            Case { expected: &[failures(1, 1)], ..WRONG },
            Case { expected: &[failures(1, 1)], ..UNKNOWN },
            Case { expected: &[failures(0, 0)], ..IMITATION },
            Case { expected: &[logins(1)], ..RIGHT },
        ],
        choose: "as `vsftpd`",
        ..VSFTPD
    },
    Recipe {
        name: "proftpd",
        cases: &[
            Case { expected: &[failures(1, 1)], ..WRONG },
            Case { expected: &[failures(0, 1)], note: "PAM is not asked", ..UNKNOWN },
            Case { expected: &[failures(0, 1)], note: "PAM is not asked", ..ROOT },
            Case { expected: &[logins(1)], ..RIGHT },
        ],
        choose: "the filter `proftpd`: of unknown users and of root PAM is not asked",
        ..PROFTPD
    },
    Recipe {
        name: "proftpd-with-names",
        setup: "clients whose addresses have names",
        names: true,
        cases: &[
            Case { expected: &[failures(0, 1).nameless(1)], note: CLIENTS_NAME, ..WRONG },
            Case { expected: &[failures(0, 1)], note: "PAM is not asked", ..UNKNOWN },
            Case { expected: &[logins(0)], note: CLIENTS_NAME, ..RIGHT },
        ],
        choose: "the filter `proftpd`: Debian's proftpd tells PAM the name where there is one",
        ..PROFTPD
    },
    Recipe {
        name: "proftpd-with-peers",
        setup: "the same, and `peers = true`",
        names: true,
        peers: true,
        cases: &[
            Case { expected: &[failures(1, 1)], ..WRONG },
            Case { expected: &[failures(0, 1)], note: "PAM is not asked", ..UNKNOWN },
            Case { expected: &[logins(1)], ..RIGHT },
        ],
        choose: "as `proftpd`",
        ..PROFTPD
    },
    Recipe {
        name: "pure-ftpd",
        setup: "`DontResolve`",
        layer: "pure-ftpd",
        packages: &["pure-ftpd"],
        start: "echo yes >/etc/pure-ftpd/conf/DontResolve; exec pure-ftpd-wrapper",
        listens: &[Port::Tcp(21)],
        log: Some(("pure-ftpd", "/var/log/syslog")),
        cases: &[
            Case { expected: &[failures(0, 1).nameless(1)], note: SERVERS_NAME, ..WRONG },
            Case { expected: &[failures(0, 1).nameless(1)], note: SERVERS_NAME, ..UNKNOWN },
            Case { expected: &[logins(0)], note: SERVERS_NAME, ..RIGHT },
        ],
        choose: "the filter `pure-ftpd`, or `logins` with `peers = true`: it tells PAM the server's own name",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "pure-ftpd-with-peers",
        setup: "the same, and `peers = true`",
        layer: "pure-ftpd",
        packages: &["pure-ftpd"],
        start: "echo yes >/etc/pure-ftpd/conf/DontResolve; exec pure-ftpd-wrapper",
        listens: &[Port::Tcp(21)],
        log: Some(("pure-ftpd", "/var/log/syslog")),
        peers: true,
        cases: &[
            Case { expected: &[failures(1, 1)], ..WRONG },
            Case { expected: &[failures(1, 1)], ..UNKNOWN },
            Case { expected: &[logins(1)], ..RIGHT },
        ],
        choose: "`logins`, or the filter `pure-ftpd`",
        ..Recipe::DEFAULT
    },
];
