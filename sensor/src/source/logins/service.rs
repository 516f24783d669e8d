//! What services are called, and what is known of those whose logins lead to nobody. All of it was seen of Debian's
//! programs; a program that is not here goes by the name of its process.

/// What one service is called: by its process, by what it tells PAM, and in jails.
const NAMES: [&[&str]; 7] = [
    &["sshd", "sshd-session"],
    &["dovecot", "auth"],
    &["cups", "cupsd"],
    &["cockpit", "cockpit-session"],
    &["login", "remote"],
    &["ocserv", "ocserv-sm"],
    &["xrdp-sesman", "xrdp-sesexec", "xrdp"],
];

/// Why the kernel's side does not do for a service, and what does; a sentence.
const NOTES: [(&[&str], &str); 6] = [
    (
        &["saslauthd"],
        "saslauthd tells PAM no address, so that its failed logins ban nobody: use a jail on the log of the program that asks it, such as one with `filter = \"postfix\"`",
    ),
    (
        &["pure-ftpd"],
        "pure-ftpd tells PAM this host's own name in place of its client's address: set `peers = true` in [logins], or use a jail with `filter = \"pure-ftpd\"`",
    ),
    (
        &["proftpd"],
        "proftpd asks PAM neither for unknown users nor for root, and tells it a name where it looks names up: set `peers = true` in [logins] for the names; a jail with `filter = \"proftpd\"` sees unknown users too",
    ),
    (
        &["apache2", "httpd"],
        "apache2 does not run as root, and what it says of logins is not believed: use a jail with `filter = \"apache\"`",
    ),
    (
        &["nginx"],
        "nginx's workers do not run as root, and what they say of logins is not believed: use a jail with `filter = \"nginx\"`",
    ),
    (
        &["smbd", "samba"],
        "smbd asks PAM for no password that comes encrypted: use a jail with `filter = \"samba\"`",
    ),
];

/// Whether two names are one service's.
pub fn is_same(one: &str, other: &str) -> bool {
    one == other || NAMES.iter().any(|names| names.contains(&one) && names.contains(&other))
}

/// Why the kernel's side does not do for a service, and what does, where that is known.
pub fn note(service: &str) -> Option<&'static str> {
    NOTES.iter().find(|(names, _)| names.contains(&service)).map(|(_, note)| *note)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("cups", "cupsd", true)]
    #[case("remote", "login", true)]
    #[case("vsftpd", "vsftpd", true)]
    #[case("cups", "login", false)]
    #[case("cup", "cups", false)]
    fn a_service_has_the_name_of_its_process_and_that_which_it_tells_pam(
        #[case] one: &str,
        #[case] other: &str,
        #[case] same: bool,
    ) {
        assert_eq!(is_same(one, other), same);
        assert_eq!(is_same(other, one), same);
    }

    #[test]
    fn every_filter_that_is_recommended_is_one_of_ours() {
        for (names, note) in NOTES {
            for (_, rest) in
                note.match_indices("filter = \"").map(|(at, found)| note.split_at(at + found.len()))
            {
                let filter = rest.split('"').next().unwrap();
                let path = format!("{}/filters/{filter}.toml", env!("CARGO_MANIFEST_DIR"));
                assert!(std::path::Path::new(&path).exists(), "{names:?}: {path}");
            }
        }
    }
}
