//! The Debian package, built around the binary that the suite runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::namespace::has;
use crate::harness::proxy::Folder;
use crate::harness::{EVENKEEL, scale};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a command to its end, which takes longer than that of others where much else goes on; what it
/// has printed.
#[track_caller]
fn done(command: &Command) -> String {
    let mut bounded = Command::new("timeout");
    bounded.arg(SECONDS_MAX).arg(command.get_program());
    let output = bounded.args(command.get_args()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:#?}");
    String::from_utf8(output.stdout).unwrap()
}

/// For one step of building, checking or installing.
const SECONDS_MAX: &str = "120";

/// A system with nothing on it but what dpkg writes.
struct Root(Folder);

impl Root {
    fn new() -> Self {
        let root = Self(Folder::new());
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
            fs::create_dir_all(root.path(folder)).unwrap();
        }
        for file in ["status", "available"] {
            fs::write(root.path("var/lib/dpkg").join(file), "").unwrap();
        }
        root
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    /// Runs dpkg on it. The scripts of the package run outside of it, on files within, and see no service
    /// manager: one that runs here is not theirs.
    #[track_caller]
    fn dpkg(&self, arguments: &[&str]) {
        let mut dpkg = Command::new("unshare");
        dpkg.args(["--mount", "sh", "-c"]);
        dpkg.arg("mount -t tmpfs none /run && exec dpkg \"$@\"");
        dpkg.args(["dpkg", "--force-script-chrootless", "--force-depends"]);
        dpkg.arg(format!("--root={}", self.0.path().display()));
        dpkg.arg("--log=/dev/null").args(arguments);
        done(&dpkg);
    }

    /// The files on it that the package is to blame for.
    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let below = path.strip_prefix(self.0.path()).unwrap();
                    found.insert(below.display().to_string());
                }
            }
        }
        // dpkg's own, and the accounts, which stay.
        let is_own = |path: &String| path.starts_with("var/lib/") || is_account(path);
        found.retain(|path| !is_own(path));
        found
    }
}

fn is_account(path: &str) -> bool {
    let names = ["passwd", "group", "shadow", "gshadow", ".pwd.lock"];
    let file = path.strip_prefix("etc/").unwrap_or_default();
    names.contains(&file.trim_end_matches('-'))
}

/// The package, or why it cannot be built here.
fn build(folder: &Path) -> Result<PathBuf, &'static str> {
    if !has("dpkg-deb") || !has("gzip") {
        return Err("dpkg-deb or gzip is not installed");
    }
    if !has("cargo-deb") && !repository("target/tools/bin/cargo-deb").exists() {
        return Err("cargo-deb is not there; scripts/package builds it");
    }
    let mut package = Command::new(repository("scripts/package"));
    package.args(["--binary", EVENKEEL, "--output"]).arg(folder);
    let path = PathBuf::from(done(&package).trim());
    assert!(path.starts_with(folder), "{}", path.display());
    Ok(path)
}

#[test]
fn the_package_installs_upgrades_and_leaves_nothing() {
    const CASE: &str = "the_package_installs_upgrades_and_leaves_nothing";
    let folder = Folder::new();
    let package = match build(folder.path()) {
        Ok(package) => package,
        Err(reason) => return scale::skip(CASE, reason),
    };
    check_by_lintian(&package);
    let needed = ["unshare", "deb-systemd-helper", "systemd-sysusers"];
    if !nix::unistd::geteuid().is_root() || !needed.into_iter().all(has) {
        return scale::skip(
            CASE,
            "installing takes root, deb-systemd-helper and systemd-sysusers",
        );
    }
    let root = Root::new();
    let before = root.files();
    let package = package.to_str().unwrap();
    root.dpkg(&["--install", package]);
    check_installed(&root);
    // An upgrade leaves alone what the operator has written.
    let own = "# mine\n".to_owned() + include_str!("../../../conf/minimal.toml");
    fs::write(root.path("etc/evenkeel/evenkeel.toml"), &own).unwrap();
    root.dpkg(&["--install", package]);
    let kept = fs::read_to_string(root.path("etc/evenkeel/evenkeel.toml")).unwrap();
    assert_eq!(kept, own);
    root.dpkg(&["--remove", "evenkeel"]);
    assert!(!root.path("usr/bin/evenkeel").exists());
    // The link by which the service manager knows that the unit is gone may stay until the purge.
    let left: Vec<String> = root.files().into_iter().collect();
    assert!(
        left.contains(&"etc/evenkeel/evenkeel.toml".to_owned()),
        "{left:?}"
    );
    assert!(left.len() <= 2, "{left:?}");
    fs::create_dir_all(root.path("var/log/evenkeel")).unwrap();
    fs::write(root.path("var/log/evenkeel/access.log"), "a line").unwrap();
    root.dpkg(&["--purge", "evenkeel"]);
    assert_eq!(root.files(), before);
    let states = root.path("var/lib/systemd/deb-systemd-helper-enabled");
    assert!(!states.join("evenkeel.service.dsh-also").exists());
}

fn check_by_lintian(package: &Path) {
    if !has("lintian") {
        return scale::skip("the_package_pleases_lintian", "lintian is not installed");
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    // It goes into no archive whose bugs it could close.
    lintian.args(["--suppress-tags", "initial-upload-closes-no-bugs"]);
    lintian.arg(package);
    done(&lintian);
}

#[track_caller]
fn check_installed(root: &Root) {
    let files = root.files();
    for file in [
        "usr/bin/evenkeel",
        "usr/lib/systemd/system/evenkeel.service",
        "usr/lib/sysusers.d/evenkeel.conf",
        "usr/share/man/man1/evenkeel.1.gz",
        "usr/share/man/man1/evenkeel-run.1.gz",
        "usr/share/man/man5/evenkeel.toml.5.gz",
        "usr/share/bash-completion/completions/evenkeel",
        "usr/share/zsh/vendor-completions/_evenkeel",
        "usr/share/fish/vendor_completions.d/evenkeel.fish",
        "usr/share/doc/evenkeel/copyright",
        "usr/share/doc/evenkeel/examples/web.toml",
    ] {
        assert!(files.contains(file), "{file} is not among {files:#?}");
    }
    let accounts = fs::read_to_string(root.path("etc/passwd")).unwrap();
    assert!(accounts.starts_with("evenkeel:"), "{accounts}");
    let mut check = Command::new(root.path("usr/bin/evenkeel"));
    check
        .arg("check")
        .arg(root.path("etc/evenkeel/evenkeel.toml"));
    done(&check);
    let unit = root.path("usr/lib/systemd/system/evenkeel.service");
    let unit = fs::read_to_string(unit).unwrap();
    let start = "ExecStart=/usr/bin/evenkeel run -c /etc/evenkeel/evenkeel.toml";
    assert!(unit.lines().any(|line| line == start), "{unit}");
    assert!(!unit.contains("scripts/"), "{unit}");
    // Nothing starts it by itself.
    let wanted = root.path("etc/systemd/system/multi-user.target.wants");
    assert!(!wanted.exists());
    if has("systemd-analyze") {
        let path = root.path("evenkeel.service");
        let binary = root.path("usr/bin/evenkeel").display().to_string();
        fs::write(&path, unit.replace("/usr/bin/evenkeel", &binary)).unwrap();
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(["verify", "--man=no"]).arg(&path);
        done(&analyze);
        fs::remove_file(path).unwrap();
    }
}
