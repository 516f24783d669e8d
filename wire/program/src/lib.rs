//! What the sensor and the enforcer do alike as programs, so that whoever knows one knows the other: where the [log]
//! goes and how much of it is written, when there is [colour], how numbers agree with their nouns ([count]), how many [files
//! may be open](open_files), how a [host's name](host_names) is looked up, how a [mistake in the configuration](config_file) or [another error](causes) is told, and what is
//! done about [disks](disk) that take nothing more, and [databases](database) on them; also the [manual]'s pages, and what [systemd] is told. What they say to each other is in `atalaya-wire`.

#![forbid(unsafe_code)]

pub mod causes;
pub mod colour;
pub mod config_file;
pub mod count;
pub mod database;
pub mod disk;
pub mod host_names;
mod journal;
pub mod log;
pub mod manual;
pub mod metrics;
pub mod open_files;
pub mod systemd;
mod toml_words;
