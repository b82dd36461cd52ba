//! Named formats of text.

use base64::Engine;
use keelson_api::names;
use url::Url;

use super::Outcome;
use super::strings::text;
use super::time::{parse_date, parse_timestamp};
use crate::error::EvalError;
use crate::value::{Extension, Value};

/// A format: its name, and what is wrong with a text.
#[derive(Debug)]
pub struct NamedFormat {
    pub(crate) name: &'static str,
    check: fn(&str) -> Vec<String>,
}

fn prefix(check: fn(&str) -> Vec<String>, text: &str) -> Vec<String> {
    check(&names::mask_trailing_dash(text))
}

fn unless(valid: bool, message: &str) -> Vec<String> {
    if valid {
        Vec::new()
    } else {
        vec![message.to_owned()]
    }
}

fn is_uuid(text: &str) -> bool {
    let compact: String = text.chars().filter(|character| *character != '-').collect();
    let dashes = text.len() - compact.len();
    compact.len() == 32 && compact.bytes().all(|byte| byte.is_ascii_hexdigit()) && dashes <= 4
}

static FORMATS: [NamedFormat; 13] = [
    NamedFormat {
        name: "dns1123Label",
        check: names::dns1123_label,
    },
    NamedFormat {
        name: "dns1123Subdomain",
        check: names::dns1123_subdomain,
    },
    NamedFormat {
        name: "dns1035Label",
        check: names::dns1035_label,
    },
    NamedFormat {
        name: "qualifiedName",
        check: names::qualified_name,
    },
    NamedFormat {
        name: "dns1123LabelPrefix",
        check: |text| prefix(names::dns1123_label, text),
    },
    NamedFormat {
        name: "dns1123SubdomainPrefix",
        check: |text| prefix(names::dns1123_subdomain, text),
    },
    NamedFormat {
        name: "dns1035LabelPrefix",
        check: |text| prefix(names::dns1035_label, text),
    },
    NamedFormat {
        name: "labelValue",
        check: names::label_value,
    },
    NamedFormat {
        name: "uri",
        check: |text| {
            unless(
                text.starts_with('/') || Url::parse(text).is_ok(),
                "invalid URI for request",
            )
        },
    },
    NamedFormat {
        name: "uuid",
        check: |text| unless(is_uuid(text), "does not match the UUID format"),
    },
    NamedFormat {
        name: "byte",
        check: |text| {
            let valid = base64::engine::general_purpose::STANDARD.decode(text).is_ok();
            unless(valid, "invalid base64")
        },
    },
    NamedFormat {
        name: "date",
        check: |text| unless(parse_date(text).is_some(), "invalid date"),
    },
    NamedFormat {
        name: "datetime",
        check: |text| unless(parse_timestamp(text).is_some(), "invalid datetime"),
    },
];

fn find(name: &str) -> Option<&'static NamedFormat> {
    FORMATS.iter().find(|format| format.name == name)
}

fn constant<'a>(name: &str) -> Outcome<'a> {
    find(name)
        .map(|format| Value::Extension(Extension::Format(format)))
        .ok_or_else(EvalError::no_such_overload)
}

/// `format.named(s)`
pub(super) fn named<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    Ok(match find(text(args, 0)?) {
        Some(format) => Value::some(Value::Extension(Extension::Format(format))),
        None => Value::Optional(None),
    })
}

/// `f.validate(s)`: what is wrong with the text, or nothing.
pub(super) fn validate<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::Extension(Extension::Format(format))) = args.first() else {
        return Err(EvalError::no_such_overload());
    };
    let problems = (format.check)(text(args, 1)?);
    Ok(if problems.is_empty() {
        Value::Optional(None)
    } else {
        Value::some(Value::list(problems.into_iter().map(Value::text).collect()))
    })
}

macro_rules! constants {
    ($($function:ident $name:literal),* $(,)?) => {
        $(
            #[doc = concat!("`format.", $name, "()`")]
            pub(super) fn $function<'a>(_args: &[Value<'a>]) -> Outcome<'a> {
                constant($name)
            }
        )*
    };
}

constants! {
    dns1123_label "dns1123Label",
    dns1123_subdomain "dns1123Subdomain",
    dns1035_label "dns1035Label",
    qualified_name "qualifiedName",
    dns1123_label_prefix "dns1123LabelPrefix",
    dns1123_subdomain_prefix "dns1123SubdomainPrefix",
    dns1035_label_prefix "dns1035LabelPrefix",
    label_value "labelValue",
    uri "uri",
    uuid "uuid",
    byte "byte",
    date "date",
    datetime "datetime",
}
