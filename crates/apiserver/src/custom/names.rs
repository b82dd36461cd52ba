//! Which of a definition's names it gets: within a group, resource names and kinds belong to whoever had them first.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// `acceptedNames` of all definitions as this server knows them, by name of the definition.
#[derive(Default)]
pub(super) struct AcceptedNames(BTreeMap<String, (String, Value)>);

fn text<'a>(names: &'a Value, field: &str) -> &'a str {
    names[field].as_str().unwrap_or_default()
}

fn short_names(names: &Value) -> impl Iterator<Item = &str> {
    names["shortNames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

impl AcceptedNames {
    /// Notes what a definition has. True: it changed, and names of its group may have become free.
    pub(super) fn note(&mut self, name: &str, group: &str, accepted: &Value) -> bool {
        let new = (group.to_owned(), accepted.clone());
        let before = self.0.insert(name.to_owned(), new.clone());
        before.is_some_and(|before| before != new)
    }

    /// Forgets a definition that is gone. True: it had names.
    pub(super) fn forget(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// The names of the definitions that are known.
    pub(super) fn known(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn taken(&self, group: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
        for (_, names) in self.0.values().filter(|(g, _)| g == group) {
            resources.extend([text(names, "plural"), text(names, "singular")]);
            resources.extend(short_names(names));
            kinds.extend([text(names, "kind"), text(names, "listKind")]);
        }
        (resources, kinds)
    }

    /// The names that a definition gets, and (status, reason, message) of its condition `NamesAccepted`.
    pub(super) fn judge(&self, crd: &Value) -> (Value, [String; 3]) {
        let (resources, kinds) = self.taken(text(&crd["spec"], "group"));
        let (wanted, accepted) = (&crd["spec"]["names"], &crd["status"]["acceptedNames"]);
        let mut names: Map<String, Value> = accepted.as_object().cloned().unwrap_or_default();
        let mut conflict: Option<(&str, String)> = None;
        for (field, reason, taken) in [
            ("plural", "PluralConflict", &resources),
            ("singular", "SingularConflict", &resources),
            ("shortNames", "ShortNamesConflict", &resources),
            ("kind", "KindConflict", &kinds),
            ("listKind", "ListKindConflict", &kinds),
        ] {
            let in_use: Vec<String> = if field == "shortNames" {
                let own: Vec<&str> = short_names(accepted).collect();
                let fresh = short_names(wanted).filter(|name| !own.contains(name));
                fresh.filter(|name| taken.contains(name)).map(in_use).collect()
            } else {
                let name = text(wanted, field);
                let refused = name != text(accepted, field) && taken.contains(name);
                refused.then(|| in_use(name)).into_iter().collect()
            };
            match in_use.as_slice() {
                [] => match wanted.get(field) {
                    Some(name) => {
                        names.insert(field.to_owned(), name.clone());
                    }
                    None => {
                        names.remove(field);
                    }
                },
                [one] => conflict = Some((reason, one.clone())),
                several => conflict = Some((reason, format!("[{}]", several.join(", ")))),
            }
        }
        match wanted.get("categories") {
            Some(categories) => names.insert("categories".to_owned(), categories.clone()),
            None => names.remove("categories"),
        };
        for field in ["plural", "kind"] {
            names.entry(field).or_insert_with(|| json!(""));
        }
        let condition = match conflict {
            Some((reason, message)) => ["False".to_owned(), reason.to_owned(), message],
            None => ["True", "NoConflicts", "no conflicts found"].map(str::to_owned),
        };
        (Value::Object(names), condition)
    }
}

fn in_use(name: &str) -> String {
    format!("{} is already in use", keelson_api::field::quote(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served() {
        let names = |plural: &str, kind: &str, short: &[&str]| {
            json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"),
                "shortNames": short})
        };
        let mut accepted = AcceptedNames::default();
        let first = names("widgets", "Widget", &["w"]);
        assert!(!accepted.note("widgets.x.io", "x.io", &first));
        let none = json!({"plural": "", "kind": ""});
        for (wanted, group, reason, message) in [
            (
                names("gadgets", "Gadget", &["g"]),
                "x.io",
                "NoConflicts",
                "no conflicts found",
            ),
            (
                names("gadgets", "Widget", &["w"]),
                "y.io",
                "NoConflicts",
                "no conflicts found",
            ),
            (
                names("gadgets", "Gadget", &["w"]),
                "x.io",
                "ShortNamesConflict",
                "\"w\" is already in use",
            ),
            (
                names("gadgets", "Widget", &[]),
                "x.io",
                "ListKindConflict",
                "\"WidgetList\" is already in use",
            ),
            (
                names("w", "Gadget", &["widgets", "widget"]),
                "x.io",
                "ShortNamesConflict",
                "[\"widgets\" is already in use, \"widget\" is already in use]",
            ),
        ] {
            let crd = json!({"spec": {"group": group, "names": wanted}, "status": {"acceptedNames": none}});
            let (names, condition) = accepted.judge(&crd);
            let status = if reason == "NoConflicts" { "True" } else { "False" };
            assert_eq!(condition, [status, reason, message].map(str::to_owned));
            assert_eq!(names == wanted, reason == "NoConflicts");
        }
        // Its own names are no conflict, and what it gives up is free.
        let renamed = names("widgets", "Widget", &["wi"]);
        let crd = json!({"spec": {"group": "x.io", "names": renamed}, "status": {"acceptedNames": first}});
        let (now, condition) = accepted.judge(&crd);
        assert_eq!((condition[0].as_str(), &now), ("True", &renamed));
        assert!(accepted.note("widgets.x.io", "x.io", &now));
        assert!(accepted.forget("widgets.x.io") && !accepted.forget("widgets.x.io"));
    }
}
