//! The commands that look and do not run for long: what they print, and nothing else.

pub mod argument;
pub mod lint;
pub mod named;
pub mod status;
pub mod trial;
