//! The sandbox: what a process that serves can still reach, and which configurations it may not go on
//! to, since nothing that was given up comes back.

use std::path::{Path, PathBuf};

use super::loader::Source;
use crate::config::plan::{
    AdminSocket, Bind, Health, Origin, Output, Plan, ProbeKind, Sandbox, Tls,
};
use crate::sys::sandbox::{Files, confine_calls, confine_files};

/// What the process has given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confinement {
    /// Nothing but new privileges.
    #[default]
    None,
    /// Files that the first configuration did not ask for, and running programs.
    Files,
}

impl Confinement {
    /// Gives up what `plan` does not need, in the calling thread and those that it starts; system calls
    /// in all threads. The kernel does what it can of it; the log says what that is. `is_managed`: by a
    /// service manager.
    pub fn enter(plan: &Plan, source: &Source, is_managed: bool) -> Result<Self, String> {
        let global = &plan.global;
        let is_strict = match global.sandbox {
            Sandbox::Off => return Ok(Self::without("as the configuration asks")),
            Sandbox::Auto if global.user.is_none() && !is_managed => {
                return Ok(Self::without(
                    "there is neither global.user nor a service manager",
                ));
            }
            _ if global.exec_probes => {
                return Ok(Self::without(
                    "exec_probes lets programs run, which may need anything",
                ));
            }
            Sandbox::Auto | Sandbox::Files => false,
            Sandbox::Strict => true,
        };
        let failed = |error| format!("global.sandbox: {error}");
        let landlock = confine_files(&needed(plan, source)).map_err(failed)?;
        let files = match landlock {
            Some(version) => format!("landlock ABI {version}"),
            None => "no landlock (not to be had here)".to_owned(),
        };
        let calls = match is_strict.then(confine_calls) {
            None => "no seccomp (sandbox = \"strict\" adds it)".to_owned(),
            Some(Ok(count)) => format!("seccomp {count} calls allowed"),
            Some(Err(error)) => format!("no seccomp ({error})"),
        };
        log::info!("sandbox: no_new_privs, {files}, {calls}");
        Ok(landlock.map_or(Self::None, |_| Self::Files))
    }

    fn without(why: &str) -> Self {
        log::info!("sandbox: no_new_privs and nothing else: {why}");
        Self::None
    }

    /// Whether it can go on to `plan`.
    pub(super) fn admits(self, plan: &Plan) -> Result<(), String> {
        match self {
            Self::Files if plan.global.exec_probes => {
                Err("global.exec_probes: the sandbox runs no \
                programs, and cannot be left: restart, with exec_probes = true from the beginning"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Adds to why a reload has failed what the sandbox may have to do with it.
    pub(super) fn explain(self, error: String) -> String {
        match self {
            Self::Files if error.contains(DENIED) => format!(
                "{error}; if its permissions are right: the sandbox leaves in reach what the \
                 configuration named at the start, so restart"
            ),
            _ => error,
        }
    }
}

/// How the kernel's refusal of a file is displayed.
const DENIED: &str = "Permission denied";

/// What a process with this plan opens while it serves. Directories, not files: what is read again at a
/// reload may be another file of that name by then.
fn needed(plan: &Plan, source: &Source) -> Files {
    let mut files = Files::default();
    files.read.extend(SYSTEM.iter().map(PathBuf::from));
    for path in LINKED {
        directory_of(Path::new(path), &mut files.read);
    }
    let of_environment = |names: &[&str]| -> Vec<PathBuf> {
        let values = names.iter().filter_map(std::env::var_os);
        let paths = values.flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
        paths.collect()
    };
    for path in of_environment(&["SSL_CERT_FILE", "SSL_CERT_DIR"]) {
        directory_of(&path, &mut files.read);
        files.read.push(path);
    }
    for path in plan
        .pools
        .iter()
        .filter_map(|pool| authorities(&pool.health))
    {
        directory_of(path, &mut files.read);
    }
    for origin in plan.pools.iter().flat_map(|pool| &pool.discover.origins) {
        if let Origin::File(path) = origin {
            directory_of(path, &mut files.read);
        }
    }
    if let Source::File(path) = source {
        directory_of(path, &mut files.read);
        directory_of(path, &mut files.sockets);
    }
    for bind in plan.listeners.iter().flat_map(|listener| &listener.bind) {
        if let Bind::Unix(path) = bind {
            directory_of(path, &mut files.sockets);
        }
    }
    // The default one is where a service has its sockets.
    if let AdminSocket::At(path) = &plan.global.admin_socket {
        directory_of(path, &mut files.sockets);
    }
    if let Some(Output::File(path)) = plan.global.access_log.as_ref().map(|log| &log.output) {
        match path.metadata() {
            // A device, a pipe: its neighbours are none of our business.
            Ok(there) if !there.is_file() => files.write.push(path.clone()),
            _ => directory_of(path, &mut files.write),
        }
    }
    files.sockets.push(RUNTIME.into());
    files.write.push(LOGS.into());
    // The service manager's words for the same; several are separated by colons.
    files.sockets.extend(of_environment(&["RUNTIME_DIRECTORY"]));
    files.write.extend(of_environment(&["LOGS_DIRECTORY"]));
    files
}

/// Adds the directory that a path is in, and the one it leads to if it is a link.
fn directory_of(path: &Path, to: &mut Vec<PathBuf>) {
    let own = path.parent().map(|parent| match parent.as_os_str() {
        empty if empty.is_empty() => PathBuf::from("."),
        _ => parent.to_owned(),
    });
    to.extend(own);
    let target = path.canonicalize().ok();
    to.extend(target.and_then(|target| target.parent().map(Path::to_owned)));
}

/// The file of authorities that a pool's probes trust.
fn authorities(health: &Health) -> Option<&Path> {
    let Health::Probed(probe) = health else {
        return None;
    };
    let tls: Option<&Tls> = match &probe.kind {
        ProbeKind::Tls(tls) => Some(tls),
        ProbeKind::Http(http) => http.tls.as_ref(),
        _ => None,
    };
    tls.and_then(|tls| tls.ca.as_deref())
}

/// To resolve names, with the libraries that the C library loads for that; certificates of authorities;
/// and what it reads about processors and about this process.
const SYSTEM: &[&str] = &[
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/nix/store",
    "/proc/self",
    "/sys/devices/system/cpu",
];

/// Places of those that are often links to elsewhere.
const LINKED: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
];

/// Where a service has its sockets, and its logs: a reload may add some.
const RUNTIME: &str = "/run/evenkeel";
const LOGS: &str = "/var/log/evenkeel";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn what_the_configuration_names_is_in_reach() {
        let text = r#"
            [global]
            access_log = { path = "/srv/log/access.log" }
            [[listener]]
            name = "a"
            bind = "unix:/srv/sockets/a"
            pool = "p"
            [pool.p]
            health = { type = "tls", tls_ca = "/srv/authorities/ca.pem" }
            discover = { file = "/srv/found/backends.toml" }
            [[pool.p.backend]]
            address = "10.0.0.1:1"
        "#;
        let plan = config::load(text, "f").unwrap();
        let files = needed(&plan, &Source::File("/srv/balancer/a.toml".into()));
        let has = |list: &[PathBuf], path: &str| list.contains(&PathBuf::from(path));
        assert!(has(&files.read, "/srv/balancer") && has(&files.read, "/srv/authorities"));
        assert!(has(&files.read, "/srv/found"));
        assert!(has(&files.sockets, "/srv/sockets") && has(&files.sockets, "/srv/balancer"));
        assert!(has(&files.write, "/srv/log"));
        assert!(!has(&files.write, "/srv/balancer") && !has(&files.write, "/srv/sockets"));
        let files = needed(&plan, &Source::File("a.toml".into()));
        assert!(has(&files.read, "."));
        let device = text.replace("/srv/log/access.log", "/dev/full");
        let plan = config::load(&device, "f").unwrap();
        let files = needed(&plan, &Source::Fixed(Box::new(plan.clone())));
        assert!(has(&files.write, "/dev/full") && !has(&files.write, "/dev"));
    }

    #[test]
    fn programs_cannot_be_asked_for_later() {
        let text = "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\npool = \"p\"\n\
                    [[pool.p.backend]]\naddress = \"10.0.0.1:2\"\n";
        let plain = config::load(text, "f").unwrap();
        let with = config::load(&format!("[global]\nexec_probes = true\n{text}"), "f").unwrap();
        assert_eq!(Confinement::Files.admits(&plain), Ok(()));
        assert_eq!(Confinement::None.admits(&with), Ok(()));
        let error = Confinement::Files.admits(&with).unwrap_err();
        assert!(error.starts_with("global.exec_probes: "), "{error}");
        let denied = "cannot open /a: Permission denied (os error 13)".to_owned();
        assert!(
            Confinement::Files
                .explain(denied.clone())
                .contains("sandbox")
        );
        assert_eq!(Confinement::None.explain(denied.clone()), denied);
        assert_eq!(Confinement::Files.explain("no".to_owned()), "no");
    }
}
