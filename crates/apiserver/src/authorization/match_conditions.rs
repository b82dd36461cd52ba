//! CEL that decides whether a webhook is asked at all. `request` is the spec of the SubjectAccessReview.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use keelson_api::field::{Error, ErrorList, Path};
use keelson_cel::limits::PER_CALL_LIMIT;
use keelson_cel::{Decl, DeclKind, Env, Field, ObjectType, Program, Type, Value, Variables};
use serde_json::{Value as Json, json};

/// Most conditions of a webhook.
const MOST: usize = 64;

static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || Arc::new(Decl::string());
    let texts = || Arc::new(Decl::list(text()));
    let requirement = object(
        "SelectorRequirement",
        vec![("key", text()), ("operator", text()), ("values", texts())],
    );
    let selector = |name: &str| {
        let requirements = Arc::new(Decl::list(requirement.clone()));
        object(
            name,
            vec![("rawSelector", text()), ("requirements", requirements)],
        )
    };
    let resource = object(
        "ResourceAttributes",
        vec![
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("FieldSelectorAttributes")),
            ("labelSelector", selector("LabelSelectorAttributes")),
        ],
    );
    let other = object("NonResourceAttributes", vec![("path", text()), ("verb", text())]);
    object(
        "SubjectAccessReviewSpec",
        vec![
            ("resourceAttributes", resource),
            ("nonResourceAttributes", other),
            ("user", text()),
            ("groups", texts()),
            ("extra", Arc::new(Decl::map(texts()))),
            ("uid", text()),
        ],
    )
});

/// An object whose fields have the names that the review gives them: `namespace`, which schemas of resources escape, is one.
fn object(name: &str, fields: Vec<(&str, Arc<Decl>)>) -> Arc<Decl> {
    let field = |(name, decl): (&str, Arc<Decl>)| {
        let property = name.to_owned();
        (property.clone(), Field { property, decl })
    };
    let object = Arc::new(ObjectType {
        name: format!("kubernetes.{name}"),
        fields: fields.into_iter().map(field).collect(),
        open: false,
    });
    Arc::new(Decl {
        kind: DeclKind::Object(object.clone()),
        ty: Type::Object(object),
        max_elements: 0,
        min_serialized_size: 2,
        nullable: false,
    })
}

/// The conditions of one webhook.
#[derive(Default)]
pub(super) struct MatchConditions {
    programs: Vec<Program>,
}

impl MatchConditions {
    /// Compiles; what is wrong goes to `errors`.
    pub(super) fn compile(texts: &[String], path: &Path, errors: &mut ErrorList) -> Self {
        let path = path.child("matchConditions");
        if texts.len() > MOST {
            errors.push(Error::too_many(&path, texts.len(), MOST));
            return Self::default();
        }
        let env = Env::new().variable("request", REQUEST.clone());
        let (mut seen, mut programs) = (HashSet::new(), Vec::new());
        for (at, text) in texts.iter().enumerate() {
            let path = path.index(at).child("expression");
            if text.trim().is_empty() {
                errors.push(Error::required(&path, ""));
                continue;
            }
            if !seen.insert(text) {
                errors.push(Error::duplicate(&path, text.as_str()));
                continue;
            }
            match env.compile(text) {
                Err(issues) => {
                    errors.push(Error::invalid(
                        &path,
                        text.as_str(),
                        format!("compilation failed: {issues}"),
                    ));
                }
                Ok(program) if *program.result() != Type::Bool => {
                    let detail = format!("must evaluate to bool but got {}", program.result());
                    errors.push(Error::invalid(&path, text.as_str(), detail));
                }
                Ok(program) => programs.push(program),
            }
        }
        Self { programs }
    }

    /// Whether the webhook is to be asked: all conditions hold. One that does not hold outweighs those that fail.
    ///
    /// # Errors
    /// None is false, but some could not be evaluated.
    pub(super) fn hold(&self, spec: &Json) -> Result<bool, String> {
        if self.programs.is_empty() {
            return Ok(true);
        }
        let request = complete(spec);
        let mut errors = Vec::new();
        for program in &self.programs {
            let outcome = Value::typed(&request, &REQUEST).and_then(|value| {
                let variables = Variables(vec![("request", value)]);
                program.evaluate(&variables, PER_CALL_LIMIT).value
            });
            match outcome {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => errors.push("the expression does not evaluate to a boolean".to_owned()),
                Err(error) => errors.push(format!("cel evaluation error: {error}")),
            }
        }
        match errors.as_slice() {
            [] => Ok(true),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

/// The spec with all its fields: what is empty is left out on the wire, but an expression must see it.
fn complete(spec: &Json) -> Json {
    let filled = |from: &Json, texts: &[&str]| {
        let mut all = from.clone();
        for name in texts {
            if all[name].is_null() {
                all[name] = "".into();
            }
        }
        all
    };
    let mut request = filled(spec, &["user", "uid"]);
    for (name, empty) in [("groups", json!([])), ("extra", json!({}))] {
        if request[name].is_null() {
            request[name] = empty;
        }
    }
    if spec["resourceAttributes"].is_object() {
        let names = [
            "namespace",
            "verb",
            "group",
            "version",
            "resource",
            "subresource",
            "name",
        ];
        request["resourceAttributes"] = filled(&spec["resourceAttributes"], &names);
    }
    if spec["nonResourceAttributes"].is_object() {
        request["nonResourceAttributes"] = filled(&spec["nonResourceAttributes"], &["path", "verb"]);
    }
    request
}
