//! Lines that are JSON objects, and their fields by name: `request.client_ip` is the field `client_ip` of the object
//! `request`. A name that has dots itself is found too.

use serde_json::{Map, Value};

/// The object that a text is, from its first brace to its end; `None` where that is no object.
pub fn object(text: &[u8]) -> Option<Map<String, Value>> {
    let start = memchr::memchr(b'{', text)?;
    serde_json::from_slice(&text[start..]).ok()
}

/// A field by its name.
pub fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(name) {
        return Some(value);
    }
    name.match_indices('.')
        .find_map(|(dot, _)| field(object.get(&name[..dot])?.as_object()?, &name[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("a", Some("1"))]
    #[case("b.c", Some("2"))]
    #[case("b.d.e", Some("[3]"))]
    #[case("x.y", Some("4"))]
    #[case("b.x.y", Some("5"))]
    #[case("c", None)]
    #[case("a.b", None)]
    #[case("b.d.e.0", None)]
    #[case("b.", None)]
    #[case("", None)]
    fn a_name_with_dots_leads_into_objects(#[case] name: &str, #[case] expected: Option<&str>) {
        let object = object(br#"h p[1]: {"a":1,"b":{"c":2,"d":{"e":[3]},"x.y":5},"x.y":4}"#).unwrap();
        assert_eq!(field(&object, name).map(Value::to_string).as_deref(), expected);
    }

    #[rstest]
    #[case(r#"{"a":1} x"#)]
    #[case(r#"{"a":1"#)]
    #[case(r#"["a"]"#)]
    #[case(r#"x {y {"a":1}"#)]
    #[case("")]
    fn what_is_no_object_to_its_end_is_none(#[case] text: &str) {
        assert_eq!(object(text.as_bytes()), None);
    }

    #[test]
    fn an_object_that_is_too_deep_is_none() {
        let deep = [br#"{"a":"#.repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat();
        assert_eq!(object(&deep), None);
    }

    proptest! {
        #[test]
        fn no_text_and_no_name_cause_a_panic(text in "[{}\":a.é,]{0,30}", name in "[a.é]{0,8}") {
            if let Some(object) = object(text.as_bytes()) {
                field(&object, &name);
            }
        }
    }
}
