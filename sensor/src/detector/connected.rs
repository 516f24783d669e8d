//! Who connected to this host lately. Whoever completed a handshake is no forged sender: jails that count what a router
//! dropped count those alone, unless they are told to count all.

use std::net::IpAddr;

/// Asks whoever remembers handshakes: the kernel, or a test.
#[derive(Default)]
pub(super) struct Connected(Option<Box<dyn Fn(IpAddr) -> bool + Send>>);

// === impl Connected ===

impl Connected {
    pub(super) fn new(is_known: impl Fn(IpAddr) -> bool + Send + 'static) -> Self {
        Self(Some(Box::new(is_known)))
    }

    /// Whether an address completed a handshake lately; of none, where nobody remembers.
    pub(super) fn knows(&self, address: IpAddr) -> bool {
        self.0.as_ref().is_some_and(|is_known| is_known(address))
    }
}
