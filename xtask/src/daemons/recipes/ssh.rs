//! OpenSSH, and others that speak its protocol.

use crate::daemons::recipe::{Case, Port, Recipe, failures, logins};

macro_rules! ssh {
    ($options:literal, $account:literal) => {
        concat!(
            "SSH_ASKPASS_REQUIRE=force ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
             -o LogLevel=ERROR -o IdentitiesOnly=yes ",
            $options,
            " ",
            $account,
            "@$TO echo let-in"
        )
    };
}
macro_rules! password {
    ($which:literal, $guesses:literal, $account:literal) => {
        concat!("export SSH_ASKPASS=$WORK/", $which, "\n", ssh!($guesses, $account))
    };
}

const PASSWORDS: Case = Case {
    name: "two wrong passwords",
    client: password!(
        "wrong",
        "-o PreferredAuthentications=password -o NumberOfPasswordPrompts=2",
        "$ACCOUNT"
    ),
    told: "Permission denied",
    refused: 2,
    ..Case::DEFAULT
};
const KEYBOARD: Case = Case {
    name: "a wrong answer, keyboard-interactive",
    client: password!(
        "wrong",
        "-o PreferredAuthentications=keyboard-interactive -o NumberOfPasswordPrompts=1",
        "$ACCOUNT"
    ),
    told: "Permission denied",
    refused: 1,
    ..Case::DEFAULT
};
const UNKNOWN: Case = Case {
    name: "an unknown user",
    client: password!(
        "wrong",
        "-o PreferredAuthentications=password -o NumberOfPasswordPrompts=1",
        "$UNKNOWN"
    ),
    told: "Permission denied",
    refused: 1,
    ..Case::DEFAULT
};
const WRONG_KEY: Case = Case {
    name: "a wrong key",
    client: ssh!("-o PreferredAuthentications=publickey -i $WORK/bad", "$ACCOUNT"),
    told: "Permission denied",
    refused: 1,
    ..Case::DEFAULT
};
const PASSWORD: Case = Case {
    name: "the right password",
    client: password!("right", "-o PreferredAuthentications=password", "$ACCOUNT"),
    told: "let-in",
    let_in: 1,
    ..Case::DEFAULT
};
const KEY: Case = Case {
    name: "the right key",
    client: ssh!("-o PreferredAuthentications=publickey -i $WORK/good", "$ACCOUNT"),
    told: "let-in",
    let_in: 1,
    ..Case::DEFAULT
};

const WITH_NAMES: &str = "exec /usr/sbin/sshd -D -o MaxStartups=100 -o UseDNS=yes";
const SSHD: Recipe = Recipe {
    layer: "sshd",
    packages: &["openssh-server"],
    prepare: "mkdir -p /run/sshd
        install -d -o $ACCOUNT -g $ACCOUNT -m 700 /home/$ACCOUNT/.ssh
        install -o $ACCOUNT -g $ACCOUNT -m 600 /etc/good.pub /home/$ACCOUNT/.ssh/authorized_keys",
    listens: &[Port::Tcp(22)],
    log: Some(("sshd", "/var/log/auth.log")),
    ..Recipe::DEFAULT
};

/// What comes of sshd's own records.
const ONE_A_CONNECTION: &str = "sshd's own records: one failure a connection, 10 s late";

/// The recipes.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "sshd",
        start: "exec /usr/sbin/sshd -D -o MaxStartups=100 -o KbdInteractiveAuthentication=yes",
        cases: &[
            Case { expected: &[failures(2, 2)], ..PASSWORDS },
            Case { expected: &[failures(1, 1)], ..KEYBOARD },
            Case { expected: &[failures(1, 1)], ..UNKNOWN },
            Case { expected: &[failures(1, 0)], ..WRONG_KEY },
            Case { expected: &[logins(1)], ..PASSWORD },
            Case { expected: &[logins(1)], ..KEY },
        ],
        choose: "`logins`: it knows of a refused password about two seconds before the log does, and of good logins",
        ..SSHD
    },
    Recipe {
        name: "sshd-without-pam",
        setup: "`UsePAM no`",
        start: "exec /usr/sbin/sshd -D -o MaxStartups=100 -o UsePAM=no",
        cases: &[
            Case { expected: &[failures(1, 2)], note: ONE_A_CONNECTION, ..PASSWORDS },
            Case { expected: &[failures(1, 1)], ..UNKNOWN },
            Case { expected: &[failures(1, 0)], ..WRONG_KEY },
            Case { expected: &[logins(0)], ..PASSWORD },
            Case { expected: &[logins(0)], ..KEY },
        ],
        choose: "the filter `sshd`. The kernel's source has only sshd's own word: guesses of one connection are one, 10 s late, and no login is seen to succeed",
        ..SSHD
    },
    Recipe {
        name: "sshd-with-names",
        setup: "`UseDNS yes`, and clients whose addresses have names",
        names: true,
        start: WITH_NAMES,
        cases: &[
            Case { expected: &[failures(2, 2)], ..PASSWORDS },
            Case { expected: &[failures(1, 1)], ..UNKNOWN },
            Case { expected: &[failures(1, 0)], ..WRONG_KEY },
            Case { expected: &[logins(0)], ..PASSWORD },
            Case { expected: &[logins(0)], ..KEY },
        ],
        choose: "the filter `sshd`, or `logins` with `peers = true`: PAM is told the name, and a name is never banned. Without it failures count with sshd's own verdict, two seconds later, and no good login does",
        ..SSHD
    },
    Recipe {
        name: "sshd-with-peers",
        setup: "the same, and `peers = true`",
        names: true,
        peers: true,
        start: WITH_NAMES,
        cases: &[
            Case { expected: &[failures(2, 2)], ..PASSWORDS },
            Case { expected: &[failures(1, 1)], ..UNKNOWN },
            Case { expected: &[failures(1, 0)], ..WRONG_KEY },
            Case { expected: &[logins(1)], ..PASSWORD },
            Case { expected: &[logins(1)], ..KEY },
        ],
        choose: "`logins`",
        ..SSHD
    },
    Recipe {
        name: "dropbear",
        layer: "dropbear",
        packages: &["dropbear-bin"],
        prepare: "install -d -o $ACCOUNT -g $ACCOUNT -m 700 /home/$ACCOUNT/.ssh
        install -o $ACCOUNT -g $ACCOUNT -m 600 /etc/good.pub /home/$ACCOUNT/.ssh/authorized_keys
        mkdir -p /etc/dropbear",
        start: "exec dropbear -F -R",
        listens: &[Port::Tcp(22)],
        log: Some(("dropbear", "/var/log/auth.log")),
        cases: &[
            Case { expected: &[failures(0, 2)], ..PASSWORDS },
            Case { expected: &[failures(0, 1)], ..UNKNOWN },
            Case { expected: &[failures(0, 0)], ..WRONG_KEY },
            Case { expected: &[logins(0)], ..PASSWORD },
            Case { expected: &[logins(0)], ..KEY },
        ],
        choose: "the filter `dropbear`; PAM is not asked",
        ..Recipe::DEFAULT
    },
];
