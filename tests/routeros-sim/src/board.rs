//! Boards: what `/system/resource` tells of them, and what commands cost on those that someone measured.
//!
//! The figures are others', published and not ours; `facts/ROUTEROS.md` has them with their sources. What nobody measured
//! is said so beside the figure, and is a guess that errs on the slow side.

use std::time::Duration;

use crate::cost::Costs;

/// A board that a router can be, with what commands cost there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// RB5009UG+S+: four cores of ARM64 at 1,400 MHz, 1 GiB.
    Rb5009,
    /// hAP ax³: four cores of ARM64 at 1,800 MHz, 1 GiB.
    HapAx3,
    /// hEX (RB750Gr3): four threads of MMIPS at 880 MHz, 256 MiB.
    Hex,
    /// RB951Ui-2HnD, for the MIPSBE boards: one core at 600 MHz, 128 MiB.
    Rb951,
}

/// The board that a router claims to be.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    /// RouterOS's `board-name`.
    pub(crate) name: String,
    /// All of it, in bytes, as `total-memory` tells it.
    pub(crate) memory: u64,
    pub(crate) architecture: &'static str,
    pub(crate) cpu: &'static str,
    pub(crate) cores: u8,
    pub(crate) megahertz: u32,
    /// What each session takes of the memory, in bytes.
    pub(crate) session_memory: u64,
}

const MIB: u64 = 1024 * 1024;

// === impl Model ===

impl Model {
    /// All of them, the fastest first.
    pub const ALL: [Self; 4] = [Self::Rb5009, Self::HapAx3, Self::Hex, Self::Rb951];

    /// The word that stands for it on a command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rb5009 => "rb5009",
            Self::HapAx3 => "hap-ax3",
            Self::Hex => "hex",
            Self::Rb951 => "rb951",
        }
    }

    /// The one that a word stands for.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.word() == word)
    }

    /// What commands cost there, without the round trip.
    pub fn costs(self) -> Costs {
        let (insert, remove, scan, property) = match self {
            // Measured by cs-routeros-bouncer's author: an insertion 1.2 ms, removals 350 a second; of 22,037 entries a
            // count in 1.18 s, a print of three properties in 1.78 s, of five in 2.24 s.
            Self::Rb5009 => (1_200_000, 2_860_000, 54_000, 9_500),
            // Measured by the same: 147 adds and 168 removals a second. Nobody measured a print: as on the RB5009.
            Self::HapAx3 => (6_800_000, 5_950_000, 54_000, 9_500),
            // Measured in the field: 30,000 entries take over 20 s to print, 0.67 ms each. How much of that is the scan
            // nobody measured: as much as on a router of 53,000 entries that counted in 9.8 s. Nobody measured changes: as on
            // the hAP ax³.
            Self::Hex => (6_800_000, 5_950_000, 185_000, 97_000),
            // Nobody measured anything; users say that such boards are not made for 25,000 entries. Twice the hEX.
            Self::Rb951 => (13_600_000, 11_900_000, 370_000, 194_000),
        };
        let nanoseconds = Duration::from_nanos;
        Costs {
            round_trip: Duration::ZERO,
            insert: nanoseconds(insert),
            remove: Some(nanoseconds(remove)),
            scan_per_entry: nanoseconds(scan),
            print_per_property: nanoseconds(property),
        }
    }

    pub(crate) fn board(self) -> Board {
        // The names are the products'; nobody looked what `board-name` says on each.
        let (name, memory, architecture, cpu, cores, megahertz) = match self {
            Self::Rb5009 => ("RB5009UG+S+", 1024, "arm64", "ARM64", 4, 1400),
            Self::HapAx3 => ("hAP ax^3", 1024, "arm64", "ARM64", 4, 1800),
            Self::Hex => ("hEX", 256, "mmips", "MIPS 1004Kc V2.15", 4, 880),
            Self::Rb951 => ("RB951Ui-2HnD", 128, "mipsbe", "MIPS 74Kc V4.12", 1, 600),
        };
        // 19 MiB a connection were measured on an RB5009 alone; a small board could not live with that.
        let session_memory = if memory >= 1024 { 19 * MIB } else { 2 * MIB };
        Board {
            name: name.to_owned(),
            memory: memory * MIB,
            architecture,
            cpu,
            cores,
            megahertz,
            session_memory,
        }
    }
}

// === impl Board ===

impl Board {
    /// A board of another name and memory, otherwise like an RB5009.
    pub(crate) fn named(name: String, memory: u64) -> Self {
        Self { name, memory, session_memory: 0, ..Model::Rb5009.board() }
    }

    /// What is free with so many sessions, in bytes: about what an RB5009 has with a small configuration, less what they
    /// take. Entries take nothing that was measurable.
    pub(crate) fn free(&self, sessions: usize) -> u64 {
        let taken = self.session_memory.saturating_mul(sessions as u64);
        (self.memory / 1000 * 806).saturating_sub(taken).max(self.memory / 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_costs_give_back_what_was_measured() {
        let seconds = |cost: Duration, times: u32| (cost * times).as_secs_f64();
        let close =
            |found: f64, measured: f64| assert!((found / measured - 1.0).abs() < 0.04, "{found} {measured}");
        let rb5009 = Model::Rb5009.costs();
        close(seconds(rb5009.scan_per_entry, 22_037), 1.18);
        close(seconds(rb5009.scan_per_entry + 3 * rb5009.print_per_property, 22_037), 1.78);
        close(seconds(rb5009.scan_per_entry + 5 * rb5009.print_per_property, 22_037), 2.24);
        close(seconds(rb5009.insert, 24_452), 29.3);
        let ax3 = Model::HapAx3.costs();
        close(seconds(ax3.insert, 25_000), 170.0);
        close(seconds(ax3.remove.expect("measured"), 168), 1.0);
        let hex = Model::Hex.costs();
        close(seconds(hex.scan_per_entry + 5 * hex.print_per_property, 30_000), 20.1);
        close(seconds(hex.scan_per_entry, 53_000), 9.8);
    }

    #[test]
    fn a_word_stands_for_one_board_and_sessions_take_of_its_memory() {
        for model in Model::ALL {
            assert_eq!(Model::of(model.word()), Some(model));
            let board = model.board();
            assert!(board.free(1) < board.free(0) && board.free(1000) > 0, "{model:?}");
        }
        assert_eq!(Model::of("RB5009UG+S+"), None);
    }
}
