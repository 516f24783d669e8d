//! Filters of our own, for what people run behind a MikroTik: part of the program, so that a new user
//! enables one by its name. They are written from what the daemons document, one file each in
//! `filters/`, with lines that they must match and must not match beside them.

use crate::filter::FilterDefinition;

/// Each filter's name and its file.
const FILTERS: &[(&str, &str)] = &[
    ("apache", include_str!("../../filters/apache.toml")),
    ("asterisk", include_str!("../../filters/asterisk.toml")),
    ("caddy", include_str!("../../filters/caddy.toml")),
    ("cockpit", include_str!("../../filters/cockpit.toml")),
    ("dovecot", include_str!("../../filters/dovecot.toml")),
    ("dropbear", include_str!("../../filters/dropbear.toml")),
    ("exim", include_str!("../../filters/exim.toml")),
    ("forgejo", include_str!("../../filters/forgejo.toml")),
    ("gitea", include_str!("../../filters/gitea.toml")),
    ("grafana", include_str!("../../filters/grafana.toml")),
    ("haproxy", include_str!("../../filters/haproxy.toml")),
    ("home-assistant", include_str!("../../filters/home-assistant.toml")),
    ("mosquitto", include_str!("../../filters/mosquitto.toml")),
    ("mysql", include_str!("../../filters/mysql.toml")),
    ("nextcloud", include_str!("../../filters/nextcloud.toml")),
    ("nginx", include_str!("../../filters/nginx.toml")),
    ("openvpn", include_str!("../../filters/openvpn.toml")),
    ("postfix", include_str!("../../filters/postfix.toml")),
    ("postgresql", include_str!("../../filters/postgresql.toml")),
    ("postgresql-host-last", include_str!("../../filters/postgresql-host-last.toml")),
    ("proftpd", include_str!("../../filters/proftpd.toml")),
    ("proxmox", include_str!("../../filters/proxmox.toml")),
    ("pure-ftpd", include_str!("../../filters/pure-ftpd.toml")),
    ("routeros", include_str!("../../filters/routeros.toml")),
    ("routeros-drop", include_str!("../../filters/routeros-drop.toml")),
    ("samba", include_str!("../../filters/samba.toml")),
    ("slapd", include_str!("../../filters/slapd.toml")),
    ("sshd", include_str!("../../filters/sshd.toml")),
    ("traefik", include_str!("../../filters/traefik.toml")),
    ("vaultwarden", include_str!("../../filters/vaultwarden.toml")),
    ("vsftpd", include_str!("../../filters/vsftpd.toml")),
    ("xrdp", include_str!("../../filters/xrdp.toml")),
];

/// The names of our filters, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|(name, _)| *name)
}

/// A filter of ours by its name.
pub fn filter(name: &str) -> Option<FilterDefinition> {
    let (name, text) = FILTERS.iter().find(|(own, _)| *own == name)?;
    // They are ours: that each can be read is tested.
    let definition: FilterDefinition = toml::from_str(text).ok()?;
    Some(FilterDefinition { name: (*name).to_owned(), ..definition })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_of_ours_can_be_read_and_bent_by_nobody() {
        for name in names() {
            let definition = filter(name).unwrap_or_else(|| panic!("{name} cannot be read"));
            assert!(!definition.description.is_empty(), "{name}");
            let compiled = definition.compile().unwrap();
            assert_eq!(compiled.warnings(), [""; 0], "{name}");
            assert!(compiled.is_gated(), "{name} looks at every line");
            assert!(!definition.paths.is_empty() || !definition.journalmatch.is_empty(), "{name}");
        }
    }
}
