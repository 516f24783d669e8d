//! Whom `ignoreip` spares, in words that mean the same in our own lists.

use std::net::IpAddr;

use ipnet::IpNet;

/// The words of `ignoreip`, parted by blanks, commas and lines. Masks become lengths, and brackets go. What follows a `#` is
/// no comment to fail2ban, but more words: the addresses and networks in it are spared there and here, and its other
/// words, which are looked up there as the names of hosts, are left out.
pub(super) fn words(list: &str) -> Vec<String> {
    list.lines()
        .flat_map(|line| {
            let mut in_comment = false;
            parted(line).filter_map(move |written| {
                in_comment |= written.starts_with('#');
                Some(word(written)).filter(|word| !in_comment || is_network(word))
            })
        })
        .collect()
}

fn parted(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty())
}

fn is_network(word: &str) -> bool {
    word.parse::<IpAddr>().is_ok() || word.parse::<IpNet>().is_ok()
}

/// `10.0.0.0/255.0.0.0` as `10.0.0.0/8`, `[2001:db8::1]` as `2001:db8::1`, and all else as it is.
fn word(word: &str) -> String {
    let word = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(word);
    let with_length = || {
        let (address, mask) = word.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let length = ipnet::ip_mask_to_prefix(mask.parse().ok()?).ok()?;
        Some(IpNet::new(address, length).ok()?.to_string())
    };
    with_length().unwrap_or_else(|| word.to_owned())
}
