//! What is logged in to over HTTP: web servers, cockpit, CUPS.

use crate::daemons::recipe::{Case, Port, Recipe, failures, logins};

macro_rules! curl {
    ($path:literal, $login:literal) => {
        concat!(
            "curl --silent --show-error --globoff --max-time 60 --insecure --write-out 'status %{http_code}' --user ",
            $login,
            " ",
            $path
        )
    };
}

macro_rules! cases {
    ($path:literal) => {
        [
            Case { client: curl!($path, "$ACCOUNT:wrong"), ..WRONG },
            Case { client: curl!($path, "$UNKNOWN:wrong"), ..UNKNOWN },
            Case { client: curl!($path, "$ACCOUNT:$PASSWORD"), ..RIGHT },
        ]
    };
}

const WRONG: Case = Case { name: "a wrong password", told: "status 401", refused: 1, ..Case::DEFAULT };
const UNKNOWN: Case = Case { name: "an unknown user", told: "status 401", refused: 1, ..Case::DEFAULT };
const RIGHT: Case = Case { name: "the right password", told: "status 200", let_in: 1, ..Case::DEFAULT };

const SERVER: [Case; 3] = cases!("http://$URL/");
const COCKPIT: [Case; 3] = cases!("http://$URL:9090/cockpit/login");
const CUPS: [Case; 3] = cases!("http://$URL:631/admin/conf/cupsd.conf");
/// Its root owns not the process that asks PAM.
const NOT_ROOT: &str = "asks PAM as www-data, which is not believed";

/// The recipes.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "apache", setup: "basic authentication, a file of passwords",
        layer: "apache",
        packages: &["apache2"],
        prepare: "htpasswd -cbB /etc/apache2/users $ACCOUNT $PASSWORD
        cat >/etc/apache2/conf-enabled/users.conf <<END
<Directory /var/www/html>
AuthType Basic
AuthName x
AuthUserFile /etc/apache2/users
Require valid-user
</Directory>
END",
        start: "exec apachectl -D FOREGROUND",
        listens: &[Port::Tcp(80)],
        log: Some(("apache", "/var/log/apache2/error.log")),
        cases: &[
            Case { expected: &[failures(0, 1)], ..SERVER[0] },
            Case { expected: &[failures(0, 1)], ..SERVER[1] },
            Case { expected: &[logins(0)], ..SERVER[2] },
        ],
        choose: "the filter `apache`; PAM is not asked",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "apache-with-pam", setup: "mod_authnz_pam",
        layer: "apache-with-pam",
        packages: &["apache2", "libapache2-mod-authnz-pam"],
        prepare: "usermod -aG shadow www-data
        a2enmod -q authnz_pam
        cat >/etc/apache2/conf-enabled/users.conf <<END
<Directory /var/www/html>
AuthType Basic
AuthName x
AuthBasicProvider PAM
AuthPAMService other
Require valid-user
</Directory>
END",
        start: "exec apachectl -D FOREGROUND",
        listens: &[Port::Tcp(80)],
        log: Some(("apache", "/var/log/apache2/error.log")),
        cases: &[
            Case { expected: &[failures(0, 1)], note: NOT_ROOT, ..SERVER[0] },
            Case { expected: &[failures(0, 1)], note: NOT_ROOT, ..SERVER[1] },
            Case { expected: &[logins(0)], note: NOT_ROOT, ..SERVER[2] },
        ],
        choose: "the filter `apache`: what asks PAM is not root",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "nginx", setup: "basic authentication, a file of passwords",
        layer: "nginx",
        packages: &["nginx"],
        prepare: "echo \"$ACCOUNT:{PLAIN}$PASSWORD\" >/etc/nginx/users
        echo let-in >/var/www/html/index.html
        cat >/etc/nginx/sites-enabled/default <<END
server { listen 80; listen [::]:80; root /var/www/html; auth_basic x; auth_basic_user_file users; }
END",
        start: "exec nginx -g 'daemon off;'",
        listens: &[Port::Tcp(80)],
        log: Some(("nginx", "/var/log/nginx/error.log")),
        cases: &[
            Case { expected: &[failures(0, 1)], ..SERVER[0] },
            Case { expected: &[failures(0, 1)], ..SERVER[1] },
            Case { expected: &[logins(0)], ..SERVER[2] },
        ],
        choose: "the filter `nginx`; PAM is not asked",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "nginx-with-pam", setup: "auth_pam",
        layer: "nginx-with-pam",
        packages: &["nginx", "libnginx-mod-http-auth-pam"],
        prepare: "usermod -aG shadow www-data
        echo let-in >/var/www/html/index.html
        cat >/etc/nginx/sites-enabled/default <<END
server { listen 80; listen [::]:80; root /var/www/html; auth_pam x; auth_pam_service_name other; }
END",
        start: "exec nginx -g 'daemon off;'",
        listens: &[Port::Tcp(80)],
        log: Some(("nginx", "/var/log/nginx/error.log")),
        cases: &[
            Case { expected: &[failures(0, 1)], note: NOT_ROOT, ..SERVER[0] },
            Case { expected: &[failures(0, 1)], note: NOT_ROOT, ..SERVER[1] },
            Case { expected: &[logins(0)], note: NOT_ROOT, ..SERVER[2] },
        ],
        choose: "the filter `nginx`: what asks PAM is not root",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "cockpit",
        layer: "cockpit",
        packages: &["cockpit-ws", "cockpit-bridge"],
        prepare: "mkdir -p /etc/cockpit
        printf '[Basic]\\nCommand = /usr/lib/cockpit/cockpit-session\\n[WebService]\\nAllowUnencrypted = true\\n' \
            >/etc/cockpit/cockpit.conf",
        start: "exec /usr/lib/cockpit/cockpit-ws --no-tls --port 9090",
        listens: &[Port::Tcp(9090)],
        log: Some(("cockpit", "/var/log/auth.log")),
        cases: &[
            Case { expected: &[failures(1, 1)], ..COCKPIT[0] },
            Case { expected: &[failures(1, 1)], ..COCKPIT[1] },
            Case { expected: &[logins(1)], ..COCKPIT[2] },
        ],
        choose: "`logins` (`services = \"cockpit-session\"`), or the filter `cockpit`",
        ..Recipe::DEFAULT
    },
    Recipe {
        name: "cups", setup: "reached from elsewhere",
        layer: "cups",
        packages: &["cups-daemon"],
        prepare: "usermod -aG lpadmin $ACCOUNT
        sed -i 's/^Listen localhost:631/Port 631/; s/^DefaultAuthType.*/DefaultAuthType Basic\\nDefaultEncryption Never/; \
            s/Order allow,deny/Order allow,deny\\n  Allow all/' /etc/cups/cupsd.conf",
        start: "exec cupsd -f",
        listens: &[Port::Tcp(631)],
        cases: &[
            Case { expected: &[failures(1, 0)], ..CUPS[0] },
            Case { expected: &[failures(1, 0)], ..CUPS[1] },
            Case { expected: &[logins(1)], ..CUPS[2] },
        ],
        choose: "`logins` (`services = \"cupsd\"`); there is no filter of ours",
        ..Recipe::DEFAULT
    },
];
