//! Images made of Debian packages that are installed on this machine: a program, the libraries it is linked with, and
//! the files it needs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use keelson_runtime::images::RunConfig;
use keelson_runtime::images::build::{BuildConfig, build_image};

/// Prefix of every image's name: the registry of [`crate::registry`].
pub const REGISTRY: &str = "127.0.0.1:5000";

/// One image.
struct Recipe {
    name: &'static str,
    tag: &'static str,
    /// Programs, copied with the libraries they are linked with.
    programs: &'static [&'static str],
    /// Files and directories, copied as they are.
    files: &'static [&'static str],
    command: &'static [&'static str],
    /// Text files of our own.
    texts: &'static [(&'static str, &'static str)],
}

const NGINX_CONF: &str = "user root;\nworker_processes 1;\nerror_log /dev/stderr warn;\npid /run/nginx.pid;\n\
events { worker_connections 1024; }\n\
http {\n  include /etc/nginx/mime.types;\n  access_log /dev/stdout;\n  include /etc/nginx/conf.d/*.conf;\n}\n";
const NGINX_SITE: &str = "server {\n  listen 80 default_server;\n  root /usr/share/nginx/html;\n}\n";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "busybox",
        tag: "1",
        programs: &[],
        files: &[],
        command: &["/bin/sh"],
        texts: &[],
    },
    // What other runtimes keep a sandbox's namespaces with.
    Recipe {
        name: "pause",
        tag: "1",
        programs: &[],
        files: &[],
        command: &["/bin/sleep", "1000000"],
        texts: &[],
    },
    Recipe {
        name: "nginx",
        tag: "1",
        programs: &["/usr/sbin/nginx"],
        files: &["/etc/nginx/mime.types"],
        command: &["/usr/sbin/nginx", "-g", "daemon off;"],
        texts: &[
            ("etc/nginx/nginx.conf", NGINX_CONF),
            ("etc/nginx/conf.d/default.conf", NGINX_SITE),
            ("usr/share/nginx/html/index.html", "version 1\n"),
        ],
    },
    Recipe {
        name: "nginx",
        tag: "2",
        programs: &["/usr/sbin/nginx"],
        files: &["/etc/nginx/mime.types"],
        command: &["/usr/sbin/nginx", "-g", "daemon off;"],
        texts: &[
            ("etc/nginx/nginx.conf", NGINX_CONF),
            ("etc/nginx/conf.d/default.conf", NGINX_SITE),
            ("usr/share/nginx/html/index.html", "version 2\n"),
        ],
    },
    Recipe {
        name: "redis",
        tag: "1",
        programs: &["/usr/bin/redis-server", "/usr/bin/redis-cli"],
        files: &[],
        command: &[
            "/usr/bin/redis-server",
            "--protected-mode",
            "no",
            "--dir",
            "/data",
        ],
        texts: &[("data/.keep", "")],
    },
];

/// Builds every image as an OCI archive in `directory`, unless it is there; the archives' paths.
pub fn build_all(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    RECIPES.iter().map(|recipe| build(recipe, directory)).collect()
}

/// The full name of an image of ours, e.g. `127.0.0.1:5000/nginx:1`.
pub fn reference(name: &str) -> String {
    format!("{REGISTRY}/{name}")
}

/// The archive of `name` (`nginx:1`) in `directory`.
pub fn archive(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{}.tar", name.replace(':', "-")))
}

fn build(recipe: &Recipe, directory: &Path) -> Result<PathBuf> {
    let name = format!("{}:{}", recipe.name, recipe.tag);
    let output = archive(directory, &name);
    if output.exists() {
        return Ok(output);
    }
    let root = tempfile::tempdir_in(directory)?;
    base(root.path()).with_context(|| format!("image {name}: the base"))?;
    let mut files: BTreeSet<PathBuf> = recipe.files.iter().map(PathBuf::from).collect();
    for program in recipe.programs {
        files.insert(program.into());
        files.extend(libraries(Path::new(program))?);
    }
    for file in files {
        copy(&file, root.path()).with_context(|| format!("image {name}: cannot copy {}", file.display()))?;
    }
    for (path, text) in recipe.texts {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(root.path()))?;
        fs::write(path, text)?;
    }
    let run = RunConfig {
        cmd: recipe.command.iter().map(ToString::to_string).collect(),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
        ..RunConfig::default()
    };
    let config = BuildConfig {
        reference: Some(reference(&name)),
        run,
        ..BuildConfig::default()
    };
    // Tests beside each other may make the same image.
    let unfinished = output.with_extension(format!("{}.new", std::process::id()));
    build_image(&[root.path().to_owned()], &config, &unfinished)?;
    fs::rename(&unfinished, &output)?;
    Ok(output)
}

/// Directories, users, and busybox with all its applets.
fn base(root: &Path) -> Result<()> {
    for directory in [
        "bin",
        "dev",
        "etc",
        "lib",
        "lib64",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "var/log/nginx",
        "var/lib/nginx",
        "var/tmp",
        "home",
    ] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::write(root.join("etc/group"), GROUP)?;
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("package busybox-static is not installed")?;
    let list = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8(list.stdout)?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(())
}

/// What the dynamic loader would load for `program`, the loader itself included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    ensure!(
        output.status.success(),
        "ldd {} failed: is its package installed?",
        program.display()
    );
    let text = String::from_utf8(output.stdout)?;
    let paths = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

/// Copies a file (the target, where it is a symbolic link) or a directory to the same path below `root`.
fn copy(from: &Path, root: &Path) -> Result<()> {
    let to = root.join(from.strip_prefix("/").unwrap_or(from));
    fs::create_dir_all(to.parent().unwrap_or(root))?;
    if from.is_dir() {
        let status = Command::new("cp")
            .args([OsStr::new("-a"), from.as_os_str(), to.as_os_str()])
            .status()?;
        ensure!(status.success(), "cp failed");
    } else {
        fs::copy(from, &to)?;
    }
    Ok(())
}
