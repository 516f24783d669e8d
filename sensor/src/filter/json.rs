//! Logs of which each line is a JSON object: a filter names the fields that hold the address, the user and the date,
//! and what must hold of others. What a stranger writes is a value there, and cannot become a field.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::Host;
use super::literal::Text;
use super::pattern::FilterError;
use crate::json::{field, object};

/// The shortest text worth searching for.
const SHORTEST: usize = 3;

/// Which fields of a line hold what; names with dots lead into objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonFields {
    /// The address, with or without a port; of several fields the first that holds a text.
    #[serde(deserialize_with = "texts")]
    pub ip: Vec<String>,
    /// Whom they tried to be.
    pub user: Option<String>,
    /// The date: seconds or milliseconds since 1970, or any of the usual forms; that at the line's start, or now,
    /// where it is left out.
    pub time: Option<String>,
    /// These must be there, whatever they hold.
    #[serde(default)]
    pub present: Vec<String>,
    /// These must hold this, or one of these.
    #[serde(default)]
    pub equal: BTreeMap<String, Scalars>,
    /// These must be there and hold none of these.
    #[serde(default)]
    pub differ: BTreeMap<String, Scalars>,
    /// These must begin so.
    #[serde(default)]
    pub begin: BTreeMap<String, String>,
}

/// Values of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalars(Vec<Scalar>);

/// A value of a field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Truth(bool),
    Number(i64),
    Text(String),
}

/// Fields, ready for use.
#[derive(Clone, Debug)]
pub(super) struct JsonMachine {
    fields: JsonFields,
    /// What it counts, for reports.
    pub(super) written: String,
}

/// Who failed, by a line's fields.
pub(super) struct JsonFailure {
    pub(super) host: Host,
    pub(super) user: Option<String>,
}

// === impl JsonMachine ===

impl JsonMachine {
    /// An error where no address is named, or nothing must hold: then every line would be a failure.
    pub(super) fn new(fields: &JsonFields) -> Result<Self, FilterError> {
        let conditions = fields.conditions();
        if fields.ip.is_empty() || conditions.is_empty() {
            return Err(FilterError::Json);
        }
        let written = format!("{} of {}", fields.ip.join(" or "), conditions.join(", "));
        Ok(Self { fields: fields.clone(), written })
    }

    /// Who failed, where all holds that must.
    pub(super) fn read(&self, text: &[u8]) -> Option<JsonFailure> {
        // What stands before it is the prefregex's to take off: anybody's text may end in an object.
        let object = Some(text.trim_ascii()).filter(|text| text.starts_with(b"{")).and_then(object)?;
        if !self.fields.hold(&object) {
            return None;
        }
        let text = |name: &String| field(&object, name)?.as_str().filter(|text| !text.is_empty());
        let host = host(self.fields.ip.iter().find_map(text)?);
        Some(JsonFailure { host, user: self.fields.user.as_ref().and_then(text).map(ToOwned::to_owned) })
    }

    /// Texts of which each line that matches holds one: a name or a value that no program escapes.
    pub(super) fn required(&self) -> Option<Vec<Text>> {
        let fields = &self.fields;
        let names = [&fields.present[..], &fields.equal.keys().cloned().collect::<Vec<_>>()].concat();
        let names = names.iter().map(|name| vec![name.rsplit('.').next().unwrap_or(name).to_owned()]);
        let values = fields.equal.values().map(|Scalars(values)| values.iter().map(Scalar::shown).collect());
        let begins = fields.begin.values().map(|text| vec![text.clone()]);
        let shortest = |texts: &Vec<String>| texts.iter().map(String::len).min().unwrap_or_default();
        let is_plain = |text: &String| {
            text.len() >= SHORTEST
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" -_.,:".contains(&byte))
        };
        // A value is rarer than a name.
        let worth = |(is_value, texts): &(bool, Vec<String>)| (*is_value, shortest(texts));
        let best = values
            .chain(begins)
            .map(|texts: Vec<String>| (true, texts))
            .chain(names.map(|texts| (false, texts)))
            .filter(|(_, texts)| texts.iter().all(is_plain))
            .max_by_key(worth)?;
        Some(best.1.into_iter().map(|text| Text { text, any_case: false }).collect())
    }
}

// === impl JsonFields ===

impl JsonFields {
    fn hold(&self, object: &Map<String, Value>) -> bool {
        self.present.iter().all(|name| field(object, name).is_some())
            && self
                .equal
                .iter()
                .all(|(name, wanted)| field(object, name).is_some_and(|value| wanted.hold(value)))
            && self
                .differ
                .iter()
                .all(|(name, other)| field(object, name).is_some_and(|value| !other.hold(value)))
            && self.begin.iter().all(|(name, start)| {
                field(object, name)
                    .and_then(Value::as_str)
                    .is_some_and(|text| text.starts_with(start.as_str()))
            })
    }

    /// What must hold, in words.
    fn conditions(&self) -> Vec<String> {
        let shown =
            |Scalars(values): &Scalars| values.iter().map(Scalar::shown).collect::<Vec<_>>().join("|");
        let mut said: Vec<String> = Vec::new();
        said.extend(self.equal.iter().map(|(name, wanted)| format!("{name}={}", shown(wanted))));
        said.extend(self.differ.iter().map(|(name, other)| format!("{name}!={}", shown(other))));
        said.extend(self.begin.iter().map(|(name, start)| format!("{name}={start}…")));
        said.extend(self.present.iter().map(|name| format!("{name} present")));
        said
    }
}

// === impl Scalars ===

impl Scalars {
    fn hold(&self, value: &Value) -> bool {
        self.0.iter().any(|scalar| match scalar {
            Scalar::Truth(truth) => value.as_bool() == Some(*truth),
            Scalar::Number(number) => value.as_i64() == Some(*number),
            Scalar::Text(text) => value.as_str() == Some(text),
        })
    }
}

impl<'de> Deserialize<'de> for Scalars {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_or_many(deserializer).map(Self)
    }
}

// === impl Scalar ===

impl Scalar {
    fn shown(&self) -> String {
        match self {
            Self::Truth(truth) => truth.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// An address, also with a port behind it; anything else is a name, which is never banned.
fn host(text: &str) -> Host {
    let address = text.parse::<IpAddr>().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map_or_else(
        || Host::Name(text.to_owned()),
        |address| Host::Address(atalaya_wire::canonical(address)),
    )
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    one_or_many(deserializer)
}

fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written<T> {
        One(T),
        Many(Vec<T>),
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::One(one) => vec![one],
        Written::Many(many) => many,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use crate::filter::{Filter, FilterDefinition, Host, LineOutcome, Match};

    fn filter(fields: &str) -> Filter {
        toml::from_str::<FilterDefinition>(&format!("[json]\n{fields}")).unwrap().compile().unwrap()
    }

    fn found(filter: &mut Filter, line: &str) -> Option<(String, Option<String>)> {
        match filter.find(line.as_bytes()) {
            LineOutcome::Matched(Match { host: Host::Address(address), user, .. }) => {
                Some((address.to_string(), user))
            }
            LineOutcome::Matched(Match { host: Host::Name(name), .. }) => {
                Some((format!("name {name}"), None))
            }
            _ => None,
        }
    }

    #[rstest]
    #[case("equal = { status = 401 }", true)]
    #[case("equal = { status = [403, 401] }", true)]
    #[case("equal = { status = 403 }", false)]
    #[case("equal = { status = \"401\" }", false)]
    #[case("equal = { ok = false }", true)]
    #[case("equal = { ok = true }", false)]
    #[case("equal = { missing = 1 }", false)]
    #[case("equal = { \"r.m\" = \"GET\" }", true)]
    #[case("differ = { user = [\"-\", \"\"] }", true)]
    #[case("differ = { user = \"bob\" }", false)]
    #[case("differ = { missing = 1 }", false)]
    #[case("begin = { text = \"Login failed: \" }", true)]
    #[case("begin = { text = \"ogin\" }", false)]
    #[case("begin = { status = \"4\" }", false)]
    #[case("present = [\"r.m\"]", true)]
    #[case("present = [\"r.n\"]", false)]
    #[case("present = [\"r.m\"]\nequal = { status = 403 }", false)]
    fn a_line_is_a_failure_where_all_holds_that_must(#[case] must: &str, #[case] is_failure: bool) {
        let line = r#"{"ip":"192.0.2.7","user":"bob","status":401,"ok":false,"r":{"m":"GET"},"text":"Login failed: x"}"#;
        let mut filter = filter(&format!("ip = \"ip\"\nuser = \"user\"\n{must}"));
        let expected = is_failure.then(|| ("192.0.2.7".to_owned(), Some("bob".to_owned())));
        assert_eq!(found(&mut filter, line), expected);
        // The texts that are searched first let it through.
        let mut lines = 0;
        filter.find_in_block(format!("x\n{line}\n").as_bytes(), |_, _| lines += 1);
        assert_eq!(lines, usize::from(is_failure), "{must}");
    }

    #[rstest]
    #[case(r#"{"s":1,"a":"192.0.2.7:4022"}"#, Some("192.0.2.7"))]
    #[case(r#"{"s":1,"a":"[2001:db8::7]:4022"}"#, Some("2001:db8::7"))]
    #[case(r#"{"s":1,"a":"2001:db8::7"}"#, Some("2001:db8::7"))]
    #[case(r#"{"s":1,"a":"::ffff:192.0.2.7"}"#, Some("192.0.2.7"))]
    #[case(r#"{"s":1,"b":"192.0.2.8"}"#, Some("192.0.2.8"))]
    #[case(r#"{"s":1,"a":"","b":"192.0.2.8"}"#, Some("192.0.2.8"))]
    #[case(r#"{"s":1,"a":"203.0.113.66, 192.0.2.7","b":"192.0.2.8"}"#, Some("name 203.0.113.66, 192.0.2.7"))]
    #[case(r#"{"s":1,"a":7}"#, None)]
    #[case(r#"{"s":1,"a":"192.0.2.7"} 203.0.113.66"#, None)]
    #[case(r#"Nov 30 08:20:00 h p[1]: no such user {"s":1,"a":"203.0.113.66"}"#, None)]
    fn the_address_is_the_first_that_is_there(#[case] line: &str, #[case] expected: Option<&str>) {
        let mut filter = filter("ip = [\"a\", \"b\"]\nequal = { s = 1 }");
        assert_eq!(found(&mut filter, line).map(|(address, _)| address).as_deref(), expected);
    }

    #[rstest]
    #[case("ip = []\nequal = { s = 1 }")]
    #[case("ip = \"a\"")]
    fn fields_that_would_count_every_line_or_none_are_refused(#[case] fields: &str) {
        let definition: FilterDefinition = toml::from_str(&format!("[json]\n{fields}")).unwrap();
        assert!(definition.compile().is_err());
    }

    #[rstest]
    #[case(r#""ts":1796026800.25"#, Some("2026-11-30T08:20:00.25Z"))]
    #[case(r#""ts":1796026800"#, Some("2026-11-30T08:20:00Z"))]
    #[case(r#""ts":1796026800250"#, Some("2026-11-30T08:20:00.25Z"))]
    #[case(r#""ts":"2026-11-30T09:20:00+01:00""#, Some("2026-11-30T08:20:00Z"))]
    #[case(r#""ts":"2026/11/30 08:20:00""#, Some("2026-11-30T08:20:00Z"))]
    #[case(r#""ts":1e300"#, None)]
    #[case(r#""ts":null"#, None)]
    #[case(r#""at":"2026-11-30T09:20:00+01:00""#, None)]
    fn the_date_is_that_of_its_field(#[case] field: &str, #[case] expected: Option<&str>) {
        let filter = filter("ip = \"ip\"\ntime = \"ts\"\nequal = { s = 1 }");
        let line = format!("{{\"s\":1,{field},\"ip\":\"192.0.2.7\",\"text\":\"2020-01-01 00:00:00\"}}");
        let now = "2026-11-30T10:00:00Z".parse().unwrap();
        let found = filter.dates().find(line.as_bytes(), now, &jiff::tz::TimeZone::UTC);
        assert_eq!(found.map(|date| date.time.to_string()).as_deref(), expected, "{line}");
        // Where syslog put its own before it.
        let line = br#"2026-11-30T08:20:00Z h p[1]: {"s":1,"ip":"192.0.2.7"}"#;
        let found = filter.dates().find(line, now, &jiff::tz::TimeZone::UTC);
        assert_eq!(found.map(|date| date.time.to_string()).as_deref(), Some("2026-11-30T08:20:00Z"));
    }
}
