//! The `process` part: arguments, environment, working directory, user, capabilities.

use keelson_cri::v1;
use serde_json::{Value, json};

use super::{Input, SpecError, User, capabilities};
use crate::images::RunConfig;

/// What a process gets when neither the image nor the pod sets `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn generate(
    input: &Input<'_>,
    security: &v1::LinuxContainerSecurityContext,
    user: &User,
) -> Result<Value, SpecError> {
    let config = input.config;
    let args = arguments(&config.command, &config.args, input.image)?;
    let mut env: Vec<String> = Vec::new();
    if !input.image.env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.push(format!("HOSTNAME={}", input.sandbox_files.name));
    for entry in &input.image.env {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(&mut env, key, value);
    }
    for entry in &config.envs {
        set(&mut env, &entry.key, &entry.value);
    }
    let cwd = [&config.working_dir, &input.image.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty());
    let cwd = cwd.map_or("/", String::as_str);
    let cwd = if cwd.starts_with('/') {
        cwd.to_owned()
    } else {
        format!("/{cwd}")
    };
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": args,
        "env": env,
        "cwd": cwd,
        "capabilities": capabilities::generate(security)?,
    });
    // libcontainer takes any value, also false, as a request to load the seccomp profile late, which needs true.
    if security.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    Ok(process)
}

/// Kubernetes' rules: `command` replaces the image's entrypoint and, with it, its arguments.
fn arguments(command: &[String], args: &[String], image: &RunConfig) -> Result<Vec<String>, SpecError> {
    let (command, args) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (image.entrypoint.as_slice(), image.cmd.as_slice()),
        (true, false) => (image.entrypoint.as_slice(), args),
        (false, _) => (command, args),
    };
    if command.is_empty() && args.is_empty() {
        return Err(SpecError::Invalid("no command specified".to_owned()));
    }
    Ok(command.iter().chain(args).cloned().collect())
}

/// Sets a variable, in the place of an earlier value.
fn set(env: &mut Vec<String>, key: &str, value: &str) {
    let entry = format!("{key}={value}");
    let same = |other: &String| other.split_once('=').map_or(other.as_str(), |(key, _)| key) == key;
    match env.iter_mut().find(|other| same(other)) {
        Some(place) => *place = entry,
        None => env.push(entry),
    }
}

/// The signal that asks a container to end: the pod's choice, the image's, SIGTERM.
pub(crate) fn stop_signal(config: &v1::ContainerConfig, image: &str) -> i32 {
    let chosen = v1::Signal::try_from(config.stop_signal).unwrap_or_default();
    let name = if chosen == v1::Signal::RuntimeDefault {
        image
    } else {
        chosen.as_str_name()
    };
    signal_number(name).unwrap_or(nix::libc::SIGTERM)
}

/// A signal by number or name, with or without `SIG`, in CRI's (`SIGRTMINPLUS3`) or the usual (`RTMIN+3`) spelling.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name
        .strip_prefix("SIG")
        .unwrap_or(&name)
        .replace("PLUS", "+")
        .replace("MINUS", "-");
    // The kernel's real-time signals as libcs number them: two are theirs.
    let realtime = |base: i32, rest: &str| -> Option<i32> {
        let offset: i32 = if rest.is_empty() { 0 } else { rest.parse().ok()? };
        Some(base + offset).filter(|n| (34..=64).contains(n))
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return realtime(34, rest);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return realtime(64, rest);
    }
    match name.as_str() {
        "CLD" => Some(nix::libc::SIGCHLD),
        "POLL" => Some(nix::libc::SIGIO),
        "IOT" => Some(nix::libc::SIGABRT),
        other => format!("SIG{other}")
            .parse::<nix::sys::signal::Signal>()
            .ok()
            .map(|signal| signal as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_and_args() {
        let list = |words: &str| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let check = |entrypoint: &str, cmd: &str, command: &str, args: &str, expected: Option<&str>| {
            let image = RunConfig {
                entrypoint: list(entrypoint),
                cmd: list(cmd),
                ..RunConfig::default()
            };
            let found = arguments(&list(command), &list(args), &image).ok();
            assert_eq!(found, expected.map(list), "{entrypoint} {cmd} {command} {args}");
        };
        check("e", "c", "", "", Some("e c"));
        check("e", "c", "", "a", Some("e a"));
        check("e", "c", "x", "", Some("x"));
        check("e", "c", "x", "a b", Some("x a b"));
        check("", "", "", "", None);
    }

    #[test]
    fn signals_by_name() {
        let check = |name: &str, number: Option<i32>| assert_eq!(signal_number(name), number, "{name}");
        check("SIGQUIT", Some(3));
        check("quit", Some(3));
        check("9", Some(9));
        check("SIGRTMINPLUS3", Some(37));
        check("RTMIN+3", Some(37));
        check("SIGRTMAXMINUS1", Some(63));
        check("SIGCLD", Some(17));
        check("65", None);
        check("nonsense", None);
        let config = v1::ContainerConfig {
            stop_signal: v1::Signal::Sigint as i32,
            ..Default::default()
        };
        assert_eq!(stop_signal(&config, "SIGQUIT"), 2);
        assert_eq!(stop_signal(&v1::ContainerConfig::default(), "SIGQUIT"), 3);
        assert_eq!(stop_signal(&v1::ContainerConfig::default(), ""), 15);
    }

    #[test]
    fn environment_is_overridden_in_place() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        set(&mut env, "A", "x=y");
        set(&mut env, "C", "");
        assert_eq!(env, ["A=x=y", "B=2", "C="]);
    }
}
