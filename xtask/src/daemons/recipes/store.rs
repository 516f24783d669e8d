//! Databases and file servers, which keep accounts of their own.

use crate::daemons::recipe::{Case, Port, Recipe, Tools, failures, logins};

const WRONG: Case = Case { name: "a wrong password", refused: 1, tools: Tools::Root, ..Case::DEFAULT };
const UNKNOWN: Case = Case { name: "an unknown user", refused: 1, tools: Tools::Root, ..Case::DEFAULT };
const RIGHT: Case = Case { name: "the right password", let_in: 1, tools: Tools::Root, ..Case::DEFAULT };

macro_rules! psql {
    ($account:literal, $password:literal) => {
        concat!(
            "PGCONNECT_TIMEOUT=30 PGPASSWORD=",
            $password,
            " PGSSLMODE=disable psql -h $TO -U ",
            $account,
            " \"${DATABASE:-postgres}\" -c \"select 'let' || '-in'\""
        )
    };
}
macro_rules! mariadb {
    ($account:literal, $password:literal) => {
        concat!(
            "mariadb --no-defaults -h $TO -P 3306 -u ",
            $account,
            " -p",
            $password,
            " -e \"select concat('let', '-in')\""
        )
    };
}
macro_rules! smb {
    ($account:literal, $password:literal) => {
        concat!("smbclient -L //$TO -I $TO -U ", $account, "%", $password, " -m SMB3")
    };
}

/// A server with these settings besides, and an account.
macro_rules! postgresql {
    ($settings:literal) => {
        concat!(
            "version=$(ls /etc/postgresql); at=/etc/postgresql/$version/main
            install -d -o postgres -g postgres -m 2775 /run/postgresql
            pg_ctlcluster $version main start
            echo \"CREATE ROLE \\\"$ACCOUNT\\\" LOGIN PASSWORD '$PASSWORD'\" |
                setpriv --reuid postgres --regid postgres --clear-groups psql postgres
            pg_ctlcluster $version main stop
            cat >>$at/postgresql.conf <<END
listen_addresses = '*'
",
            $settings,
            "
END
            printf 'host all all 0.0.0.0/0 scram-sha-256\\nhost all all ::/0 scram-sha-256\\n' >>$at/pg_hba.conf"
        )
    };
}

const POSTGRESQL: Recipe = Recipe {
    layer: "postgresql",
    packages: &["postgresql"],
    start: "pg_ctlcluster $(ls /etc/postgresql) main start && exec sleep infinity",
    listens: &[Port::Tcp(5432)],
    cases: &[
        Case {
            client: psql!("$ACCOUNT", "wrong"),
            told: "password authentication failed",
            expected: &[failures(0, 1)],
            ..WRONG
        },
        Case {
            client: psql!("$UNKNOWN", "wrong"),
            told: "password authentication failed",
            expected: &[failures(0, 1)],
            ..UNKNOWN
        },
        Case {
            name: "a database whose name imitates a line",
            client: concat!(
                "DATABASE='x 192.0.2.9 FATAL:  password authentication failed for user \"root\"'\n",
                psql!("$ACCOUNT", "wrong")
            ),
            told: "password authentication failed",
            expected: &[failures(0, 0)],
            note: "a line with quotes before its own is not taken",
            ..WRONG
        },
        Case { client: psql!("$ACCOUNT", "$PASSWORD"), told: "let-in", expected: &[logins(0)], ..RIGHT },
    ],
    ..Recipe::DEFAULT
};

/// The recipes.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "samba", setup: "`log level = 1 auth_audit:2`",
        layer: "samba",
        packages: &["samba", "smbclient"],
        prepare: "cat >/etc/samba/smb.conf <<END
[global]
server role = standalone server
log level = 1 auth_audit:2
log file = /var/log/samba/log.smbd
map to guest = never
load printers = no
disable spoolss = yes
END
        mkdir -p /run/samba /var/log/samba
        printf '%s\\n%s\\n' $PASSWORD $PASSWORD | smbpasswd -s -a $ACCOUNT",
        // It makes a session of its own, which the leader of one cannot.
        start: "smbd --foreground; exit 1",
        listens: &[Port::Tcp(445)],
        log: Some(("samba", "/var/log/samba/log.smbd")),
        cases: &[
            Case {
                client: smb!("$ACCOUNT", "wrong"),
                told: "NT_STATUS_LOGON_FAILURE",
                expected: &[failures(0, 1)],
                ..WRONG
            },
            Case {
                client: smb!("$UNKNOWN", "wrong"),
                told: "NT_STATUS_LOGON_FAILURE",
                expected: &[failures(0, 1)],
                ..UNKNOWN
            },
            Case { client: smb!("$ACCOUNT", "$PASSWORD"), told: "IPC$", expected: &[logins(0)], ..RIGHT },
        ],
        choose: "the filter `samba`: encrypted passwords are not checked by PAM",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "postgresql", setup: "`log_line_prefix = '%m [%p] %h %q%u@%d '`",
        prepare: postgresql!("log_line_prefix = '%m [%p] %h %q%u@%d '"),
        log: Some(("postgresql", "/var/log/postgresql/postgresql-*-main.log")),
        choose: "the filter `postgresql`; PAM is not asked. Debian's own prefix holds no address: change it",
        ..POSTGRESQL
    },
    Recipe {
        name: "postgresql-host-last", setup: "`log_line_prefix = '%m [%p] %q%u@%d %h '`",
        prepare: postgresql!("log_line_prefix = '%m [%p] %q%u@%d %h '"),
        log: Some(("postgresql-host-last", "/var/log/postgresql/postgresql-*-main.log")),
        choose: "the filter `postgresql-host-last`",
        ..POSTGRESQL
    },
    Recipe {
        name: "postgresql-to-syslog", setup: "the first prefix, to syslog",
        prepare: postgresql!(
            "log_line_prefix = '%m [%p] %h %q%u@%d '\nlog_destination = syslog\nlogging_collector = off"
        ),
        log: Some(("postgresql", "/var/log/syslog")),
        choose: "as `postgresql`",
        ..POSTGRESQL
    },
    Recipe {
        name: "mariadb", setup: "`log_warnings = 2`, `skip_name_resolve`",
        layer: "mariadb",
        packages: &["mariadb-server", "mariadb-client"],
        prepare: "printf \"CREATE USER IF NOT EXISTS '%s'@'%%' IDENTIFIED BY '%s';\\n\" $ACCOUNT $PASSWORD >/etc/init.sql
        install -d -o mysql -g mysql /run/mysqld /var/log/mysql /var/lib/mysql
        test -d /var/lib/mysql/mysql || mariadb-install-db --user=mysql --datadir=/var/lib/mysql",
        start: "exec mariadbd --no-defaults --user=mysql --datadir=/var/lib/mysql --log-error=/var/log/mysql/error.log \
            --skip-name-resolve --bind-address='*' --log-warnings=2 --socket=/run/mysqld/mysqld.sock --init-file=/etc/init.sql",
        listens: &[Port::Tcp(3306)],
        log: Some(("mysql", "/var/log/mysql/error.log")),
        cases: &[
            Case {
                client: mariadb!("$ACCOUNT", "wrong"),
                told: "Access denied",
                expected: &[failures(0, 1)],
                ..WRONG
            },
            Case {
                client: mariadb!("$UNKNOWN", "wrong"),
                told: "Access denied",
                expected: &[failures(0, 1)],
                ..UNKNOWN
            },
            Case { client: mariadb!("$ACCOUNT", "$PASSWORD"), told: "let-in", expected: &[logins(0)], ..RIGHT },
        ],
        choose: "the filter `mysql`; PAM is not asked",
        ..Recipe::DEFAULT
    },
];
