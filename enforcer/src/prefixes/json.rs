//! Prefixes in JSON, in one form everywhere: a host as its address, `192.0.2.1`, a network with its length, `192.0.2.0/24`.
//! Both forms of a host are read.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serializer};

use super::written;

/// A prefix: `#[serde(with = "prefixes::json")]`.
pub fn serialize<S: Serializer>(prefix: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&written(*prefix))
}

/// What [`serialize`] writes, and a host with its length.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    parse(&String::deserialize(deserializer)?)
}

fn parse<E: serde::de::Error>(text: &str) -> Result<IpNet, E> {
    text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse()).map_err(|_| {
        E::custom(format_args!(
            "`{}` is neither an address nor a network, such as 192.0.2.1 or 2001:db8::/64",
            text.escape_debug()
        ))
    })
}

/// A prefix, or `null`.
pub mod option {
    use super::{Deserialize, Deserializer, IpNet, Serializer, parse, written};

    /// As [`super::serialize`].
    pub fn serialize<S: Serializer>(prefix: &Option<IpNet>, serializer: S) -> Result<S::Ok, S::Error> {
        match prefix {
            Some(prefix) => serializer.serialize_some(&written(*prefix)),
            None => serializer.serialize_none(),
        }
    }

    /// As [`super::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| parse(&text)).transpose()
    }
}

/// A list of prefixes.
pub mod list {
    use super::{Deserialize, Deserializer, IpNet, Serializer, parse, written};

    /// As [`super::serialize`].
    pub fn serialize<'a, S: Serializer>(
        prefixes: impl IntoIterator<Item = &'a IpNet>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(prefixes.into_iter().map(|prefix| written(*prefix)))
    }

    /// As [`super::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>, C: FromIterator<IpNet>>(
        deserializer: D,
    ) -> Result<C, D::Error> {
        Vec::<String>::deserialize(deserializer)?.iter().map(|text| parse(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Answer {
        #[serde(with = "super")]
        one: IpNet,
        #[serde(with = "super::option")]
        maybe: Option<IpNet>,
        #[serde(with = "super::list")]
        many: Vec<IpNet>,
    }

    #[test]
    fn a_host_has_no_length_and_both_forms_of_it_are_read() {
        let long = r#"{"one":"192.0.2.1/32","maybe":"2001:db8::1/128","many":["192.0.2.0/24"]}"#;
        let answer: Answer = serde_json::from_str(long).unwrap();
        let short = r#"{"one":"192.0.2.1","maybe":"2001:db8::1","many":["192.0.2.0/24"]}"#;
        assert_eq!(serde_json::to_string(&answer).unwrap(), short);
        assert_eq!(serde_json::from_str::<Answer>(short).unwrap(), answer);
        let none: Answer = serde_json::from_str(r#"{"one":"192.0.2.1","maybe":null,"many":[]}"#).unwrap();
        assert_eq!((none.maybe, none.many.len()), (None, 0));
        let error =
            serde_json::from_str::<Answer>(r#"{"one":"192.0.2.1-9","maybe":null,"many":[]}"#).unwrap_err();
        assert!(error.to_string().contains("`192.0.2.1-9` is neither an address nor a network"), "{error}");
    }
}
