//! Jobs and cron jobs.

use serde_json::Value;

use super::pod;
use super::rules::{self, label_selector, not_negative};
use crate::access::{flag, int, text};
use crate::field::{Error, ErrorList, Path};

/// `Job`
pub(super) fn job(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    if spec["selector"].is_object() {
        label_selector(errors, &path.child("selector"), &spec["selector"]);
        let labels = &spec["template"]["metadata"]["labels"];
        let selector = crate::selector::LabelSelector::from_label_selector_value(&spec["selector"]);
        if selector.is_ok_and(|s| !s.matches_by(|key| labels[key].as_str())) {
            let why = "`selector` does not match template `labels`";
            errors.push(Error::invalid(
                &path.children(&["template", "metadata", "labels"]),
                labels.clone(),
                why,
            ));
        }
    } else {
        errors.push(Error::required(&path.child("selector"), ""));
    }
    job_spec(errors, path, spec);
}

fn job_spec(errors: &mut ErrorList, path: &Path, spec: &Value) {
    const COUNTS: [&str; 7] = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for field in COUNTS {
        not_negative(errors, path, spec, field);
    }
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed && spec["completions"].is_null() {
        let why = "when completion mode is Indexed";
        errors.push(Error::required(&path.child("completions"), why));
    }
    if indexed && int(spec, "parallelism") > 100_000 {
        let why = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.push(Error::invalid(
            &path.child("parallelism"),
            int(spec, "parallelism"),
            why,
        ));
    }
    if !indexed && !spec["backoffLimitPerIndex"].is_null() {
        let given = spec["backoffLimitPerIndex"].clone();
        errors.push(Error::invalid(
            &path.child("backoffLimitPerIndex"),
            given,
            "requires indexed completion mode",
        ));
    }
    let template = &spec["template"];
    pod::template(errors, &path.child("template"), template);
    let policy_path = path.children(&["template", "spec", "restartPolicy"]);
    match text(&template["spec"], "restartPolicy") {
        "" | "Always" => errors.push(Error::required(
            &policy_path,
            "valid values: \"OnFailure\", \"Never\"",
        )),
        "OnFailure" if spec["podFailurePolicy"].is_object() => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(Error::invalid(&policy_path, "OnFailure", why));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(Error::not_supported(&policy_path, other, &["Never", "OnFailure"])),
    }
}

/// What of a job stays.
pub(super) fn job_update(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let indexed = text(before, "completionMode") == "Indexed";
    let scaled = indexed && spec["completions"] == spec["parallelism"] && !spec["completions"].is_null();
    for field in [
        "completions",
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
    ] {
        if field != "completions" || !scaled {
            rules::immutable(errors, &path.child(field), &spec[field], &before[field]);
        }
    }
    // Where its pods go may change while a job that never ran is suspended.
    let may_move = flag(before, "suspend") && old["status"]["startTime"].is_null();
    let fixed = |spec: &Value| {
        let mut template = spec["template"].clone();
        if may_move {
            for part in ["metadata", "spec"] {
                if let Some(fields) = template.get_mut(part).and_then(Value::as_object_mut) {
                    for name in [
                        "labels",
                        "annotations",
                        "nodeSelector",
                        "affinity",
                        "tolerations",
                        "schedulingGates",
                    ] {
                        fields.remove(name);
                    }
                }
            }
        }
        template
    };
    if fixed(spec) != fixed(before) {
        errors.push(Error::invalid(
            &path.child("template"),
            spec["template"].clone(),
            rules::IMMUTABLE,
        ));
    }
}

/// A cron job's name leaves room for what is added to it.
pub(super) fn cron_job_name(errors: &mut ErrorList, _root: &Path, object: &Value) {
    let name = text(&object["metadata"], "name");
    if name.len() > 52 {
        errors.push(Error::invalid(
            &Path::new("metadata").child("name"),
            name,
            "must be no more than 52 characters",
        ));
    }
}

/// `CronJob`
pub(super) fn cron_job(errors: &mut ErrorList, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let schedule = text(spec, "schedule");
    let schedule_path = path.child("schedule");
    if schedule.is_empty() {
        errors.push(Error::required(&schedule_path, ""));
    } else if let Err(why) = parse_schedule(schedule) {
        errors.push(Error::invalid(&schedule_path, schedule, why));
    }
    if schedule.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(Error::invalid(&schedule_path, schedule, why));
    }
    if spec["timeZone"] == "" {
        errors.push(Error::invalid(
            &path.child("timeZone"),
            "",
            "timeZone must be nil or non-empty string",
        ));
    } else if let Some(zone) = spec["timeZone"].as_str() {
        let shaped = zone
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
        if zone.eq_ignore_ascii_case("local") || !shaped {
            let why = if shaped {
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
                    .to_owned()
            } else {
                format!("unknown time zone {zone}")
            };
            errors.push(Error::invalid(&path.child("timeZone"), zone, why));
        }
    }
    for field in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        not_negative(errors, path, spec, field);
    }
    let job = path.child("jobTemplate");
    rules::labels(
        errors,
        &job.child("labels"),
        &spec["jobTemplate"]["metadata"]["labels"],
    );
    let job_spec_value = &spec["jobTemplate"]["spec"];
    job_spec(errors, &job.child("spec"), job_spec_value);
    if flag(job_spec_value, "manualSelector") {
        let why = "\"auto-generated\"";
        errors.push(Error::not_supported(
            &job.children(&["spec", "manualSelector"]),
            true,
            &[why],
        ));
    }
}

const MONTHS: &[&str] = &[
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Judges a schedule of five fields or a descriptor; the texts are those of the library that upstream uses.
fn parse_schedule(schedule: &str) -> Result<(), String> {
    let mut rest = schedule.trim();
    if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest).trim();
    }
    if let Some(descriptor) = rest.strip_prefix('@') {
        return match descriptor {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            other => match other.strip_prefix("every ") {
                Some(text) => crate::duration::parse(text)
                    .map(drop)
                    .map_err(|e| format!("failed to parse duration {rest}: {e}")),
                None => Err(format!("unrecognized descriptor: {rest}")),
            },
        };
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    let bounds: [(i64, i64, &[&str]); 5] = [
        (0, 59, &[]),
        (0, 23, &[]),
        (1, 31, &[]),
        (1, 12, MONTHS),
        (0, 6, DAYS),
    ];
    for (field, (low, high, names)) in fields.iter().zip(bounds) {
        for part in field.split(',').filter(|part| !part.is_empty()) {
            parse_range(part, low, high, names)?;
        }
    }
    Ok(())
}

fn parse_range(part: &str, low: i64, high: i64, names: &[&str]) -> Result<(), String> {
    let pieces: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = pieces[0].split('-').collect();
    let number = |text: &str| match names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
        Some(at) => Ok(i64::try_from(at).unwrap_or_default() + i64::from(low == 1)),
        None => text.parse::<u32>().map(i64::from).map_err(|_| {
            format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
        }),
    };
    let (start, mut end) = match ends[..] {
        ["*" | "?"] => (low, high),
        [one] => (number(one)?, number(one)?),
        [first, last] => (number(first)?, number(last)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    match pieces[..] {
        [_] => {}
        [_, step] => {
            if number(step)? == 0 {
                return Err(format!("step of range should be a positive number: {part}"));
            }
            if ends.len() == 1 {
                end = high;
            }
        }
        _ => return Err(format!("too many slashes: {part}")),
    }
    if start < low {
        return Err(format!(
            "beginning of range ({start}) below minimum ({low}): {part}"
        ));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {part}"
        ));
    }
    Ok(())
}
