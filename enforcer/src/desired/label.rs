//! What is said of a ban on a router: where it comes from, how bad that is, and the comment of its entry.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use atalaya_wire::Name;
use serde::{Deserialize, Serialize};

use super::origin::Origin;

/// What many bans have in common: what routers choose by, and what they are told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// Where the bans come from.
    pub origin: Origin,
    /// How bad what was seen is.
    pub severity: Severity,
    /// What the entries' comments say after our mark.
    pub comment: String,
    /// Whether they are of scans, which anyone may have sent in the others' names.
    pub is_scan: bool,
    /// Why it was banned by hand, as the comment has it, where that was said.
    pub reason: Option<String>,
}

/// Makes labels: the comment's template, the jails' severities, and the labels that were made, which all bans of
/// one origin share.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    list: ListConfig,
    severity: BTreeMap<Name, Severity>,
    /// By jail, and by sensor, as [`Origin`] writes them.
    made: HashMap<Name, HashMap<Name, LabelPair>>,
    count: usize,
}

/// The labels of one origin: of failures, and of scans.
type LabelPair = [Option<Arc<Label>>; 2];

/// How bad what a jail sees is, as the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Left out first where a router cannot hold everything.
    Low,
    /// What a jail has where nothing is said.
    #[default]
    Medium,
    /// Left out last where a router cannot hold everything.
    High,
}

/// The `[list]` table: the address lists on the routers, and what their entries say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListConfig {
    /// The names of the IPv4 and the IPv6 address list on the routers, where a router says nothing else.
    pub names: [String; 2],
    /// What an entry's comment says after the mark; `{jail}` and `{sensor}` are filled in.
    pub comment: String,
    /// What opens the comment of our entries.
    pub mark: String,
}

/// How much of a reason a comment has, in characters.
const LONGEST_REASON: usize = 80;

/// What stands between what a comment always says and the reason of a ban by hand. No name has a colon.
const BEFORE_REASON: &str = ": ";

// === impl Label ===

impl Label {
    /// A label of a test's, whose comment is all that matters.
    #[doc(hidden)]
    pub fn test(comment: &str) -> Arc<Self> {
        let name = |text: &str| text.parse::<Name>().expect("a constant name");
        Arc::new(Self {
            origin: Origin::Sensor { jail: name("ssh"), sensor: name("web-1") },
            severity: Severity::Medium,
            comment: comment.to_owned(),
            is_scan: false,
            reason: None,
        })
    }

    /// The jail by which routers choose, `manual` of a ban by hand.
    pub fn jail(&self) -> &Name {
        self.origin.jail()
    }
}

// === impl Labels ===

impl Labels {
    /// Jails are few in practice, but sensors choose their names: past so many labels the earliest are made anew.
    const MOST: usize = 100_000;

    /// Labels as the configuration has them; a jail that it does not name is of medium severity.
    pub fn new(list: ListConfig, severity: BTreeMap<Name, Severity>) -> Self {
        Self { list, severity, ..Self::default() }
    }

    /// Whether the labels that these make are those that others make.
    pub fn say_the_same(&self, other: &Self) -> bool {
        self.list.comment == other.list.comment && self.severity == other.severity
    }

    /// The label of the bans of one origin, of scans or of anything else.
    pub fn of(&mut self, origin: &Origin, is_scan: bool) -> Arc<Label> {
        let (jail, sensor) = (origin.jail(), origin.sensor());
        if let Some(label) = self.known(jail.as_str(), sensor.as_str(), is_scan) {
            return label;
        }
        if self.count >= Self::MOST {
            (self.made, self.count) = (HashMap::new(), 0);
        }
        let severity = self.severity.get(jail).copied().unwrap_or_default();
        let comment = self.list.comment_of(jail.as_str(), sensor.as_str());
        let label = Arc::new(Label { origin: origin.clone(), severity, comment, is_scan, reason: None });
        let pair = self.made.entry(jail.clone()).or_default().entry(sensor.clone()).or_default();
        pair[usize::from(is_scan)] = Some(Arc::clone(&label));
        self.count += 1;
        label
    }

    /// The label of a ban by hand, with the reason that was given; its comment ends with as much of it as RouterOS takes
    /// in any of its windows.
    pub fn by_hand(&mut self, reason: &str) -> Arc<Label> {
        let plain = self.of(&Origin::Hand, false);
        let reason = printable(reason);
        if reason.is_empty() {
            return plain;
        }
        let comment = format!("{}{BEFORE_REASON}{reason}", plain.comment);
        Arc::new(Label { comment, reason: Some(reason), ..plain.as_ref().clone() })
    }

    /// What these say where others, or these, said a label: a ban by hand keeps its reason.
    pub fn again(&mut self, label: &Label) -> Arc<Label> {
        match &label.reason {
            Some(reason) => self.by_hand(reason),
            None => self.of(&label.origin, label.is_scan),
        }
    }

    /// As [`Self::of`], of names as [`Origin`] writes them; `None` where one is no name. Cheaper: it reads a
    /// million bans.
    pub fn of_names(&mut self, jail: &str, sensor: &str, is_scan: bool) -> Option<Arc<Label>> {
        if let Some(label) = self.known(jail, sensor, is_scan) {
            return Some(label);
        }
        Some(self.of(&Origin::from_names(jail.parse().ok()?, sensor.parse().ok()?), is_scan))
    }

    fn known(&self, jail: &str, sensor: &str, is_scan: bool) -> Option<Arc<Label>> {
        self.made.get(jail)?.get(sensor)?[usize::from(is_scan)].clone()
    }
}

// === impl Severity ===

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        })
    }
}

/// A reason as a comment holds it: printable ASCII, which every version of RouterOS and WinBox shows alike, and as much of
/// it as fits. No character of it means anything there: it goes over the API as a value, through no command line.
fn printable(reason: &str) -> String {
    let one_by_one = reason.trim().chars().map(|c| match c {
        ' '..='~' => c,
        _ if c.is_whitespace() || c.is_control() => ' ',
        _ => '?',
    });
    one_by_one.take(LONGEST_REASON).collect::<String>().trim_end().to_owned()
}

// === impl ListConfig ===

impl Default for ListConfig {
    fn default() -> Self {
        Self {
            names: ["spammer".to_owned(), "spammer".to_owned()],
            comment: "{jail} from {sensor}".to_owned(),
            mark: "atalaya".to_owned(),
        }
    }
}

impl ListConfig {
    /// The comment's text for a ban, without the mark.
    pub fn comment_of(&self, jail: &str, sensor: &str) -> String {
        self.comment.replace("{jail}", jail).replace("{sensor}", sensor)
    }

    /// The jail and the sensor that a comment's text (without the mark) tells of, where it is one of
    /// [`Self::comment_of`]'s, or one of a ban by hand with a reason.
    pub fn read_comment(&self, text: &str) -> (Option<Name>, Option<Name>) {
        let read = self.read_fields(text);
        if read != (None, None) {
            return read;
        }
        let without_reason = text.match_indices(BEFORE_REASON).map(|(end, _)| self.read_fields(&text[..end]));
        without_reason
            .take(LONGEST_REASON)
            .find(|(jail, sensor)| Origin::found(jail.clone(), sensor.clone()) == Origin::Hand)
            .unwrap_or_default()
    }

    fn read_fields(&self, text: &str) -> (Option<Name>, Option<Name>) {
        let (mut jail, mut sensor) = (None, None);
        let mut rest = text;
        let mut template = self.comment.as_str();
        while let Some(place) = template.find('{') {
            let Some(after) = rest.strip_prefix(&template[..place]) else { return (None, None) };
            let Some(end) = template[place..].find('}') else { return (None, None) };
            let what = &template[place..=place + end];
            template = &template[place + end + 1..];
            // Up to what stands behind it, which ends where the next field begins.
            let fixed = template.split('{').next().unwrap_or_default();
            let length =
                if fixed.is_empty() { after.len() } else { after.find(fixed).unwrap_or(after.len()) };
            let (value, left) = after.split_at(length);
            let Ok(name) = value.parse::<Name>() else { return (None, None) };
            match what {
                "{jail}" => jail = Some(name),
                _ => sensor = Some(name),
            }
            rest = left;
        }
        if rest == template { (jail, sensor) } else { (None, None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_read_back_and_another_is_not_taken_for_one() {
        let name = |text: &str| Some(text.parse::<Name>().unwrap());
        for template in ["{jail} from {sensor}", "{sensor}/{jail}!", "x {jail}", "{sensor}", "fixed"] {
            let list = ListConfig { comment: template.to_owned(), ..ListConfig::default() };
            let (jail, sensor) = list.read_comment(&list.comment_of("ssh", "web-1"));
            assert_eq!(jail, name("ssh").filter(|_| template.contains("{jail}")), "{template}");
            assert_eq!(sensor, name("web-1").filter(|_| template.contains("{sensor}")), "{template}");
        }
        let mut labels = Labels::default();
        let hand = labels.by_hand("c2: of \"x\"; $y: \u{1b}[2J é\n");
        assert_eq!(hand.comment, "manual from manual: c2: of \"x\"; $y:  [2J ?");
        assert_eq!(ListConfig::default().read_comment(&hand.comment), (name("manual"), name("manual")));
        assert!(Arc::ptr_eq(&labels.by_hand(" \n"), &labels.of(&Origin::Hand, false)));
        assert_eq!(labels.by_hand(&"x".repeat(500)).comment.len(), "manual from manual: ".len() + 80);
        let list = ListConfig::default();
        assert_eq!(list.read_comment("ssh from web-1: a reason"), (None, None), "only bans by hand have one");
        for other in ["", "ssh", "ssh at web-1", "s h from web-1", "ssh from web 1"] {
            assert_eq!(list.read_comment(other), (None, None), "{other}");
        }
    }
}
