//! What is dropped on this host itself, decided: which bans stand and until when ([`table`]), who is spared
//! whatever is banned ([`spared`]), and whom a new configuration could lock out ([`session`]). The maps and
//! the program that hold to it are in [`kernel`](crate::kernel).

pub mod moment;
pub mod session;
pub mod spared;
pub mod status;
pub mod table;
pub mod trusted;
