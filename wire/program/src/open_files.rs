//! How many files a program may have open: connections, logs and databases are files too. A shell and systemd give
//! programs 1,024 unless they ask for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and both to at least `wanted` where this process may do that, as root does.
/// Returns how many may be open from now on; `None` where there is no limit.
pub fn raise(wanted: u64) -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let set = |most| setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    let raised = maximum.map(|maximum| maximum.max(wanted));
    if let Err(error) = set(raised).or_else(|_| set(maximum)) {
        tracing::debug!(%error, "no more files can be open than before");
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_the_hard_one_afterwards() {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..before }).unwrap();
        assert_eq!(raise(0), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).maximum, before.maximum);
    }
}
