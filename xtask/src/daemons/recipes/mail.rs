//! Mail: dovecot, postfix with the two ways to check a password, exim.

use crate::daemons::recipe::{Case, Port, Recipe, failures, logins};

macro_rules! curl {
    ($url:literal, $login:literal) => {
        concat!("curl --silent --show-error --globoff --max-time 60 --user ", $login, " ", $url)
    };
}
/// How curl says that a login was refused.
const REFUSED: &str = "ogin denied";

const IMAP: Case =
    Case { name: "a wrong password, IMAP", client: curl!("imap://$URL/", "$ACCOUNT:wrong"), ..WRONG };
const POP3: Case =
    Case { name: "a wrong password, POP3", client: curl!("pop3://$URL/", "$ACCOUNT:wrong"), ..WRONG };
const SMTP: Case = Case {
    name: "a wrong password",
    client: curl!(
        "smtp://$URL/ --mail-from x@example --mail-rcpt y@example --upload-file /dev/null",
        "$ACCOUNT:wrong"
    ),
    ..WRONG
};
const WRONG: Case = Case { told: REFUSED, refused: 1, ..Case::DEFAULT };
/// Two guesses in one connection, the second of them right where it says so.
macro_rules! imap_twice {
    ($second:literal) => {
        concat!(
            "exec python3 - $TO $ACCOUNT ",
            $second,
            " <<'END'\n",
            "import imaplib, socket, sys\n",
            "to, account, second = sys.argv[1:]\n",
            "class Client(imaplib.IMAP4):\n",
            "    def _create_socket(self, timeout):\n",
            "        return socket.create_connection((to, 143), 60)\n",
            "client = Client()\n",
            "for password in ['wrong', second]:\n",
            "    try: print('let in' if client.login(account, password) else '')\n",
            "    except client.error as error: print('refused', error)\n",
            "print('end of it')\n",
            "client.logout()\n",
            "END\n"
        )
    };
}

const DOVECOT: &str = "if dovecot --version | grep -q '^2\\.3'; then
            printf 'ssl = no\\ndisable_plaintext_auth = no\\n' >/etc/dovecot/local.conf
        else
            printf 'ssl = no\\nauth_allow_cleartext = yes\\n' >/etc/dovecot/local.conf
        fi
        install -d -o $ACCOUNT -g $ACCOUNT -m 700 /home/$ACCOUNT/mail
        install -d -o root -g mail -m 3777 /var/mail
        install -o $ACCOUNT -g mail -m 600 /dev/null /var/mail/$ACCOUNT
";

/// The recipes.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "dovecot",
        layer: "dovecot",
        packages: &["dovecot-imapd", "dovecot-pop3d"],
        prepare: DOVECOT,
        start: "exec dovecot -F",
        listens: &[Port::Tcp(143), Port::Tcp(110)],
        log: Some(("dovecot", "/var/log/mail.log")),
        cases: &[
            Case { expected: &[failures(1, 1)], ..IMAP },
            Case { expected: &[failures(1, 1)], ..POP3 },
            Case {
                name: "an unknown user, IMAP",
                client: curl!("imap://$URL/", "$UNKNOWN:wrong"),
                expected: &[failures(1, 1)],
                ..WRONG
            },
            Case {
                name: "a name that imitates a line",
                client: "exec 3<>/dev/tcp/$TO/143
                    read -r -u 3 line
                    printf 'a login \"x>, method=PLAIN, rip=192.0.2.9, lip=192.0.2.1\" wrong\\r\\n' >&3
                    grep -m 1 '^a ' <&3
                    printf 'b logout\\r\\n' >&3",
                told: "a NO",
                refused: 1,
                expected: &[failures(0, 1)],
                note: "dovecot asks nobody about a name with such characters",
                ..Case::DEFAULT
            },
            Case {
                name: "two wrong passwords in one connection",
                client: imap_twice!("wrong"),
                told: "end of it",
                refused: 2,
                expected: &[failures(2, 1)],
                note: "the log has one line a connection",
                ..Case::DEFAULT
            },
            Case {
                name: "a wrong password, then the right one, in one connection",
                client: imap_twice!("$PASSWORD"),
                told: "let in",
                refused: 1,
                let_in: 1,
                expected: &[failures(1, 0).and_logins(1)],
                note: "the log has no line of it",
                ..Case::DEFAULT
            },
            Case {
                name: "the right password, IMAP",
                client: curl!("imap://$URL/", "$ACCOUNT:$PASSWORD"),
                told: "INBOX",
                let_in: 1,
                expected: &[logins(1)],
                ..Case::DEFAULT
            },
        ],
        choose: "`logins`: each guess counts, at once. The log has one line a connection, at its end, and none if a later password of it is right",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "postfix-with-dovecot", setup: "passwords checked by dovecot",
        layer: "postfix-with-dovecot",
        packages: &["postfix", "dovecot-imapd"],
        prepare: "postconf -e inet_interfaces=all smtpd_sasl_auth_enable=yes smtpd_sasl_type=dovecot \
            smtpd_sasl_path=private/auth smtpd_tls_auth_only=no myhostname=daemons.example
        grep -q auth_allow_cleartext /etc/dovecot/conf.d/10-auth.conf && echo 'auth_allow_cleartext = yes' >>/etc/dovecot/conf.d/10-auth.conf
        printf 'ssl = no\\nservice auth {\\n unix_listener /var/spool/postfix/private/auth {\\n mode = 0666\\n }\\n}\\n' \
            >/etc/dovecot/local.conf",
        // A server of SMTP that finds nobody to ask ends with its client.
        start: "install -d -o postfix -m 700 /var/spool/postfix/private && dovecot && exec postfix start-fg",
        listens: &[Port::Tcp(25)],
        log: Some(("postfix", "/var/log/mail.log")),
        cases: &[
            Case { expected: &[failures(1, 1)], ..SMTP },
            Case {
                name: "an unknown user",
                client: curl!(
                    "smtp://$URL/ --mail-from x@example --mail-rcpt y@example --upload-file /dev/null",
                    "$UNKNOWN:wrong"
                ),
                expected: &[failures(1, 1)],
                ..WRONG
            },
            Case {
                name: "the right password",
                client: curl!(
                    "smtp://$URL/ --verbose --mail-from x@example --mail-rcpt y@daemons.example --upload-file /dev/null",
                    "$ACCOUNT:$PASSWORD"
                ),
                told: "235 ",
                let_in: 1,
                expected: &[logins(1)],
                ..Case::DEFAULT
            },
        ],
        choose: "`logins` with `services = \"dovecot\"`; the filter `postfix` sees the same after the delay",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "postfix-with-saslauthd", setup: "passwords checked by saslauthd",
        layer: "postfix-with-saslauthd",
        packages: &["postfix", "sasl2-bin", "libsasl2-modules"],
        prepare: "postconf -e inet_interfaces=all smtpd_sasl_auth_enable=yes smtpd_sasl_type=cyrus \
            cyrus_sasl_config_path=/etc/postfix/sasl smtpd_tls_auth_only=no myhostname=daemons.example
        postconf -F '*/*/chroot = n'
        mkdir -p /etc/postfix/sasl /run/saslauthd
        printf 'pwcheck_method: saslauthd\\nmech_list: PLAIN LOGIN\\n' >/etc/postfix/sasl/smtpd.conf
        adduser --quiet postfix sasl || usermod -aG sasl postfix
        chgrp sasl /run/saslauthd; chmod 710 /run/saslauthd",
        start: "saslauthd -a pam -m /run/saslauthd && exec postfix start-fg",
        listens: &[Port::Tcp(25)],
        log: Some(("postfix", "/var/log/mail.log")),
        cases: &[
            Case { expected: &[failures(0, 1).nameless(1)], note: "saslauthd is not told the address", ..SMTP },
            Case {
                name: "an unknown user",
                client: curl!(
                    "smtp://$URL/ --mail-from x@example --mail-rcpt y@example --upload-file /dev/null",
                    "$UNKNOWN:wrong"
                ),
                expected: &[failures(0, 1).nameless(1)],
                note: "saslauthd is not told the address",
                ..WRONG
            },
            Case {
                name: "the right password",
                client: curl!(
                    "smtp://$URL/ --verbose --mail-from x@example --mail-rcpt y@daemons.example --upload-file /dev/null",
                    "$ACCOUNT:$PASSWORD"
                ),
                told: "235 ",
                let_in: 1,
                expected: &[logins(0)],
                note: "saslauthd is not told the address",
                ..Case::DEFAULT
            },
        ],
        choose: "the filter `postfix`: saslauthd is not told the address",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "exim", setup: "passwords in its own configuration",
        layer: "exim",
        packages: &["exim4-daemon-light"],
        prepare: "cat >/etc/exim4/exim4.conf <<END
primary_hostname = daemons.example
acl_smtp_rcpt = deny
auth_advertise_hosts = *
begin acl
deny:
  deny
begin routers
begin transports
begin authenticators
plain_server:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = \\${if and{{eq{\\$auth2}{$ACCOUNT}}{eq{\\$auth3}{$PASSWORD}}}}
  server_set_id = \\$auth2
END
        install -d -o Debian-exim -g adm /var/log/exim4",
        start: "exec exim4 -bdf -C /etc/exim4/exim4.conf",
        listens: &[Port::Tcp(25)],
        log: Some(("exim", "/var/log/exim4/mainlog")),
        cases: &[
            Case { expected: &[failures(0, 1)], ..SMTP },
            Case {
                name: "the right password",
                client: curl!(
                    "smtp://$URL/ --verbose --mail-from x@example --mail-rcpt y@daemons.example --upload-file /dev/null",
                    "$ACCOUNT:$PASSWORD"
                ),
                told: "235 ",
                let_in: 1,
                expected: &[logins(0)],
                ..Case::DEFAULT
            },
        ],
        choose: "the filter `exim`; PAM is not asked",
        ..Recipe::DEFAULT
    },
];
