//! What a change of plan changes: for the log of a reload and for the question what a reload
//! would do. Listeners and pools are told apart by name, backends by pool and name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::plan::{Backend, Bind, Plan, Pool};
use super::settings;

/// One difference between two plans. Displayed on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A setting of the process.
    Global(Setting),
    /// A listener that was not there.
    ListenerAdded(String),
    /// A listener that is no longer there: it stops accepting, its sessions live on.
    ListenerRemoved(String),
    /// A listener whose settings are others.
    ListenerChanged(String, Vec<Setting>),
    /// An address no listener had: a socket to bind.
    AddressBound(Bind),
    /// An address no listener has any more: a socket to close.
    AddressClosed(Bind),
    /// An IPv6 wildcard that now takes IPv4 too, or no longer does, because the IPv4 wildcard
    /// of its port went or came: a socket to bind anew.
    AddressRebound(Bind),
    /// A pool that was not there; each of its backends is a change of its own.
    PoolAdded(String),
    /// A pool that is no longer there; each of its backends is a change of its own.
    PoolRemoved(String),
    /// A pool whose own settings are others.
    PoolChanged(String, Vec<Setting>),
    /// A backend that was not there.
    BackendAdded(Identity),
    /// A backend that is no longer there: it gets no new sessions.
    BackendRemoved(Identity),
    /// A backend whose settings are others.
    BackendChanged(Identity, Vec<Setting>),
}

/// A backend's identity. Displayed as `POOL/BACKEND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The pool's name.
    pub pool: String,
    /// The backend's name within it.
    pub backend: String,
}

/// A setting with its old and its new value, as the file would write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key, under `health.` for probes.
    pub key: &'static str,
    /// The old value.
    pub from: String,
    /// The new value.
    pub to: String,
}

/// Every difference, in the order global, listeners, addresses, pools with their backends, each
/// by name. The order of listeners in the file means nothing, so it makes no difference.
pub fn diff(old: &Plan, new: &Plan) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(
        settings::global(&old.global, &new.global)
            .into_iter()
            .map(Change::Global),
    );
    for (name, sides) in join(arcs(&old.listeners), arcs(&new.listeners), |listener| {
        &listener.name
    }) {
        match sides {
            Sides::Old(_) => changes.push(Change::ListenerRemoved(name.to_owned())),
            Sides::New(_) => changes.push(Change::ListenerAdded(name.to_owned())),
            Sides::Both(old, new) => {
                let settings = settings::listener(old, new);
                if !settings.is_empty() {
                    changes.push(Change::ListenerChanged(name.to_owned(), settings));
                }
            }
        }
    }
    addresses(old, new, &mut changes);
    for (name, sides) in join(arcs(&old.pools), arcs(&new.pools), |pool| &pool.name) {
        match sides {
            Sides::Old(_) => changes.push(Change::PoolRemoved(name.to_owned())),
            Sides::New(_) => changes.push(Change::PoolAdded(name.to_owned())),
            Sides::Both(old, new) => {
                let settings = settings::pool(old, new);
                if !settings.is_empty() {
                    changes.push(Change::PoolChanged(name.to_owned(), settings));
                }
            }
        }
        let (old, new) = sides.split();
        backends(name, backends_of(old), backends_of(new), &mut changes);
    }
    changes
}

fn arcs<T>(arcs: &[Arc<T>]) -> impl Iterator<Item = &T> {
    arcs.iter().map(|arc| &**arc)
}

fn backends_of(pool: Option<&Pool>) -> &[Backend] {
    pool.map_or(&[], |pool| &pool.backends)
}

fn backends(pool: &str, old: &[Backend], new: &[Backend], changes: &mut Vec<Change>) {
    for (name, sides) in join(old.iter(), new.iter(), |backend| &backend.name) {
        let identity = Identity {
            pool: pool.to_owned(),
            backend: name.to_owned(),
        };
        match sides {
            Sides::Old(_) => changes.push(Change::BackendRemoved(identity)),
            Sides::New(_) => changes.push(Change::BackendAdded(identity)),
            Sides::Both(old, new) => {
                let settings = settings::backend(old, new);
                if !settings.is_empty() {
                    changes.push(Change::BackendChanged(identity, settings));
                }
            }
        }
    }
}

/// Sockets follow addresses, not listeners: an address that moves to another listener stays bound.
fn addresses(old: &Plan, new: &Plan, changes: &mut Vec<Change>) {
    let (old, new) = (Addresses::of(old), Addresses::of(new));
    for (text, bind) in &new.0 {
        if !old.0.contains_key(text) {
            changes.push(Change::AddressBound((*bind).clone()));
        } else if old.is_dual(bind) != new.is_dual(bind) {
            changes.push(Change::AddressRebound((*bind).clone()));
        }
    }
    for (text, bind) in &old.0 {
        if !new.0.contains_key(text) {
            changes.push(Change::AddressClosed((*bind).clone()));
        }
    }
}

/// The addresses of a plan by their text, for a stable order.
struct Addresses<'a>(BTreeMap<String, &'a Bind>);

impl<'a> Addresses<'a> {
    fn of(plan: &'a Plan) -> Self {
        let binds = plan.listeners.iter().flat_map(|listener| &listener.bind);
        Self(binds.map(|bind| (bind.to_string(), bind)).collect())
    }

    /// Whether it is an IPv6 wildcard that takes IPv4 too; see [`Bind::Tcp`].
    fn is_dual(&self, bind: &Bind) -> bool {
        bind.v4_twin()
            .is_some_and(|twin| !self.0.contains_key(&twin.to_string()))
    }
}

/// What holds a name in two lists.
#[derive(Clone, Copy)]
enum Sides<'a, T> {
    Old(&'a T),
    New(&'a T),
    Both(&'a T, &'a T),
}

impl<'a, T> Sides<'a, T> {
    fn split(self) -> (Option<&'a T>, Option<&'a T>) {
        match self {
            Self::Old(old) => (Some(old), None),
            Self::New(new) => (None, Some(new)),
            Self::Both(old, new) => (Some(old), Some(new)),
        }
    }
}

/// Both lists by name.
fn join<'a, T: 'a>(
    old: impl Iterator<Item = &'a T>,
    new: impl Iterator<Item = &'a T>,
    name: impl Fn(&'a T) -> &'a str,
) -> BTreeMap<&'a str, Sides<'a, T>> {
    let mut joined: BTreeMap<_, _> = old.map(|old| (name(old), Sides::Old(old))).collect();
    for new in new {
        let sides = match joined.get(name(new)) {
            Some(&Sides::Old(old)) => Sides::Both(old, new),
            _ => Sides::New(new),
        };
        joined.insert(name(new), sides);
    }
    joined
}

impl Change {
    /// Whether only a new process can make this change: it concerns what is fixed when the
    /// threads start or when privileges are dropped.
    pub fn needs_restart(&self) -> bool {
        match self {
            Self::Global(setting) => RESTARTS.contains(&setting.key),
            _ => false,
        }
    }

    /// What it counts as in a summary: a noun and what happened to it. Addresses come and go with
    /// listeners, which are counted.
    fn counted(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Global(_) => ("global setting", "changed"),
            Self::ListenerAdded(_) => ("listener", "added"),
            Self::ListenerRemoved(_) => ("listener", "removed"),
            Self::ListenerChanged(..) => ("listener", "changed"),
            Self::PoolAdded(_) => ("pool", "added"),
            Self::PoolRemoved(_) => ("pool", "removed"),
            Self::PoolChanged(..) => ("pool", "changed"),
            Self::BackendAdded(_) => ("backend", "added"),
            Self::BackendRemoved(_) => ("backend", "removed"),
            Self::BackendChanged(..) => ("backend", "changed"),
            Self::AddressBound(_) | Self::AddressClosed(_) | Self::AddressRebound(_) => {
                return None;
            }
        })
    }
}

/// Settings of the process that only a new one can have.
const RESTARTS: [&str; 5] = ["workers", "user", "group", "splice", "sandbox"];

/// All changes in one line: "2 backends added, 1 removed, 1 listener changed".
pub fn summary(changes: &[Change]) -> String {
    let mut parts = Vec::new();
    for noun in ["backend", "pool", "listener", "global setting"] {
        let mut named = false;
        for verb in ["added", "removed", "changed"] {
            let count = changes
                .iter()
                .filter(|c| c.counted() == Some((noun, verb)))
                .count();
            let plural = if count == 1 { "" } else { "s" };
            match (count, named) {
                (0, _) => continue,
                (_, false) => parts.push(format!("{count} {noun}{plural} {verb}")),
                (_, true) => parts.push(format!("{count} {verb}")),
            }
            named = true;
        }
    }
    if parts.is_empty() {
        "nothing changed".to_owned()
    } else {
        parts.join(", ")
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global(setting) if self.needs_restart() => {
                write!(f, "global: {setting} (takes a restart)")
            }
            Self::Global(setting) => write!(f, "global: {setting}"),
            Self::ListenerAdded(name) => write!(f, "listener {name}: added"),
            Self::ListenerRemoved(name) => write!(f, "listener {name}: removed"),
            Self::ListenerChanged(name, settings) => {
                write!(f, "listener {name}: {}", listed(settings))
            }
            Self::AddressBound(bind) => write!(f, "address {bind}: bound"),
            Self::AddressClosed(bind) => write!(f, "address {bind}: closed"),
            Self::AddressRebound(bind) => write!(f, "address {bind}: bound anew"),
            Self::PoolAdded(name) => write!(f, "pool {name}: added"),
            Self::PoolRemoved(name) => write!(f, "pool {name}: removed"),
            Self::PoolChanged(name, settings) => write!(f, "pool {name}: {}", listed(settings)),
            Self::BackendAdded(identity) => write!(f, "backend {identity}: added"),
            Self::BackendRemoved(identity) => write!(f, "backend {identity}: removed"),
            Self::BackendChanged(identity, settings) => {
                write!(f, "backend {identity}: {}", listed(settings))
            }
        }
    }
}

fn listed(settings: &[Setting]) -> String {
    settings
        .iter()
        .map(Setting::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.backend)
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {}", self.key, self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    const BASE: &str = r#"
        [[listener]]
        name = "web"
        bind = "0.0.0.0:80"
        pool = "p"
        [pool.p]
        [[pool.p.backend]]
        name = "a"
        address = "10.0.0.1:1"
        [[pool.p.backend]]
        name = "b"
        address = "10.0.0.2:1"
    "#;

    const OTHER: &str = r#"
        [[listener]]
        name = "other"
        bind = "0.0.0.0:81"
        pool = "q"
        [[pool.q.backend]]
        name = "c"
        address = "10.0.0.3:1"
    "#;

    fn changes(old: &str, new: &str) -> Vec<Change> {
        let plan = |text| load(text, "f").unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        diff(&plan(old), &plan(new))
    }

    fn lines(old: &str, new: &str) -> Vec<String> {
        changes(old, new).iter().map(Change::to_string).collect()
    }

    const POOL: &str = "[pool.p]\n";

    /// What to replace in `BASE`, by what, and the change that makes.
    const SETTINGS: &[(&str, &str, &str)] = &[
        (
            "\n",
            "[global]\nworkers = 4\n",
            "global: workers auto → 4 (takes a restart)",
        ),
        (
            "\n",
            "[global]\nuser = \"x\"\n",
            "global: user \"\" → x (takes a restart)",
        ),
        (
            "\n",
            "[global]\ngroup = \"x\"\n",
            "global: group \"\" → x (takes a restart)",
        ),
        (
            "\n",
            "[global]\nsplice = \"off\"\n",
            "global: splice auto → off (takes a restart)",
        ),
        (
            "\n",
            "[global]\nsandbox = \"strict\"\n",
            "global: sandbox auto → strict (takes a restart)",
        ),
        (
            "\n",
            "[global]\nexec_probes = true\n",
            "global: exec_probes false → true",
        ),
        (
            "\n",
            "[global]\nmax_connections = 9\n",
            "global: max_connections auto → 9",
        ),
        (
            "\n",
            "[global]\ndrain_timeout = \"90s\"\n",
            "global: drain_timeout 5m → 1m 30s",
        ),
        (
            "pool = \"p\"",
            "pool = \"p\"\nmax_connections = 7",
            "listener web: max_connections 0 → 7",
        ),
        (
            "pool = \"p\"",
            "pool = \"p\"\nmax_connections_per_source = 7",
            "listener web: max_connections_per_source 0 → 7",
        ),
        (
            "pool = \"p\"",
            "pool = \"p\"\nconnection_rate_per_source = \"9/m\"",
            "listener web: connection_rate_per_source \"\" → 9/m",
        ),
        (
            "pool = \"p\"",
            "pool = \"p\"\nallow = [\"10.0.0.0/8\", \"::1\"]",
            "listener web: allow [] → [10.0.0.0/8, ::1/128]",
        ),
        (
            "pool = \"p\"",
            "pool = \"p\"\ndeny = [\"0.0.0.0/0\"]",
            "listener web: deny [] → [0.0.0.0/0]",
        ),
        (
            POOL,
            "[pool.p]\nbalance = \"first\"\n",
            "pool p: balance hash → first",
        ),
        (
            POOL,
            "[pool.p]\nhash_key = [\"source_net/24\"]\n",
            "pool p: hash_key [source_ip, source_port, destination_ip, destination_port] → \
                 [source_net/24]",
        ),
        (
            POOL,
            "[pool.p]\nsource = \"client\"\n",
            "pool p: source \"\" → client",
        ),
        (
            POOL,
            "[pool.p]\nsource = \"10.0.0.9\"\n",
            "pool p: source \"\" → 10.0.0.9",
        ),
        (
            POOL,
            "[pool.p]\nload_factor = 1.5\n",
            "pool p: load_factor 0 → 1.5",
        ),
        (
            POOL,
            "[pool.p]\nfail_open = false\n",
            "pool p: fail_open true → false",
        ),
        (
            POOL,
            "[pool.p]\nconnect_timeout = \"1s\"\n",
            "pool p: connect_timeout 2s → 1s",
        ),
        (POOL, "[pool.p]\nretries = 0\n", "pool p: retries 2 → 0"),
        (
            POOL,
            "[pool.p]\nidle_timeout = \"1m\"\n",
            "pool p: idle_timeout 1h → 1m",
        ),
        (
            POOL,
            "[pool.p]\nhalf_close_timeout = \"1m\"\n",
            "pool p: half_close_timeout 5m → 1m",
        ),
        (
            POOL,
            "[pool.p]\nbalance = \"least_busy\"\n",
            "pool p: balance hash → least_busy",
        ),
        (
            POOL,
            "[pool.p]\nbusy_linger = \"1m\"\nbusy_min_bytes = 64\n",
            "pool p: busy_linger 2s → 1m, busy_min_bytes 0 → 64",
        ),
        (
            POOL,
            "[pool.p]\nmax_lifetime = \"1h\"\nmax_lifetime_jitter = \"5m\"\n",
            "pool p: max_lifetime \"\" → 1h, max_lifetime_jitter \"\" → 5m",
        ),
        (
            POOL,
            "[pool.p]\nlimit_counts = \"busy\"\nsoft_connections = 6\n",
            "pool p: limit_counts open → busy, soft_connections 0 → 6",
        ),
        (
            POOL,
            "[pool.p]\non_down = \"drain:1m\"\n",
            "pool p: on_down keep → drain:1m",
        ),
        (
            POOL,
            "[pool.p]\nrefuse = \"close\"\n",
            "pool p: refuse reset → close",
        ),
        (
            POOL,
            "[pool.p]\nhealth.type = \"none\"\n",
            "pool p: health.type tcp → none",
        ),
        (
            POOL,
            "[pool.p]\nhealth.interval = \"3s\"\n",
            "pool p: health.interval 2s → 3s",
        ),
        (
            POOL,
            "[pool.p]\nhealth.fast_interval = \"1s\"\n",
            "pool p: health.fast_interval 500ms → 1s",
        ),
        (
            POOL,
            "[pool.p]\nhealth.down_interval = \"1s\"\n",
            "pool p: health.down_interval 5s → 1s",
        ),
        (
            POOL,
            "[pool.p]\nhealth.timeout = \"2s\"\n",
            "pool p: health.timeout 1s → 2s",
        ),
        (
            POOL,
            "[pool.p]\nhealth.rise = 1\n",
            "pool p: health.rise 2 → 1",
        ),
        (
            POOL,
            "[pool.p]\nhealth.fall = 1\n",
            "pool p: health.fall 3 → 1",
        ),
        (
            POOL,
            "[pool.p]\nhealth.port = 9\n",
            "pool p: health.port 0 → 9",
        ),
        (
            POOL,
            "[pool.p]\nhealth.address = \"::1\"\n",
            "pool p: health.address \"\" → ::1",
        ),
        (
            POOL,
            "[pool.p]\nhealth.progress_is_alive = false\n",
            "pool p: health.progress_is_alive true → false",
        ),
        (
            POOL,
            "[pool.p]\nhealth.initial = \"down\"\n",
            "pool p: health.initial up → down",
        ),
        (
            POOL,
            "[pool.p]\nhealth.type = \"http\"\nhealth.path = \"/a\"\n",
            "pool p: health.type tcp → http",
        ),
        (
            POOL,
            "[pool.p]\nhealth.type = \"send_expect\"\nhealth.expect_bytes = \"a\"\n",
            "pool p: health.type tcp → send_expect",
        ),
        (
            POOL,
            "[pool.p]\nhealth.type = \"https\"\nhealth.tls_verify = false\n",
            "pool p: health.type tcp → https",
        ),
        (
            POOL,
            "[pool.p]\nhealth.type = \"grpc\"\nhealth.grpc_service = \"a\"\n",
            "pool p: health.type tcp → grpc",
        ),
        (
            "\"10.0.0.1:1\"",
            "\"10.0.0.1:1\"\nweight = 50\nbackup = true",
            "backend p/a: weight 100 → 50, backup false → true",
        ),
        (
            "\"10.0.0.1:1\"",
            "\"10.0.0.1:9\"\nmax_connections = 5",
            "backend p/a: address 10.0.0.1:1 → 10.0.0.1:9, max_connections 0 → 5",
        ),
    ];

    #[test]
    fn each_setting_that_changes_is_one_line() {
        for &(from, to, line) in SETTINGS {
            let new = BASE.replacen(from, to, 1);
            assert_eq!(lines(BASE, &new), [line], "{to}");
            assert_eq!(changes(&new, BASE).len(), 1, "and back: {to}");
        }
    }

    #[test]
    fn a_program_in_place_of_another_probe_is_a_change() {
        let allowed = BASE.replacen('\n', "[global]\nexec_probes = true\n", 1);
        let probe = "[pool.p]\nhealth.type = \"exec\"\nhealth.command = [\"/a\"]\n";
        let new = allowed.replacen(POOL, probe, 1);
        assert_eq!(lines(&allowed, &new), ["pool p: health.type tcp → exec"]);
    }

    #[test]
    fn things_come_and_go() {
        let both = format!("{BASE}{OTHER}");
        let added = changes(BASE, &both);
        let texts: Vec<_> = added.iter().map(Change::to_string).collect();
        assert_eq!(
            texts,
            [
                "listener other: added",
                "address 0.0.0.0:81: bound",
                "pool q: added",
                "backend q/c: added"
            ]
        );
        assert_eq!(
            summary(&added),
            "1 backend added, 1 pool added, 1 listener added"
        );
        let removed = changes(&both, BASE);
        let texts: Vec<_> = removed.iter().map(Change::to_string).collect();
        assert_eq!(
            texts,
            [
                "listener other: removed",
                "address 0.0.0.0:81: closed",
                "pool q: removed",
                "backend q/c: removed"
            ]
        );
        assert_eq!(
            summary(&removed),
            "1 backend removed, 1 pool removed, 1 listener removed"
        );
    }

    #[test]
    fn a_summary_names_each_noun_once() {
        let new = BASE
            .replace("\"a\"", "\"x\"")
            .replace(
                "10.0.0.2:1\"",
                "10.0.0.2:1\"\n[[pool.p.backend]]\naddress = \"y:1\"",
            )
            .replace("pool = \"p\"", "pool = \"p\"\nmax_connections = 1");
        let summary = summary(&changes(BASE, &new));
        assert_eq!(summary, "2 backends added, 1 removed, 1 listener changed");
    }

    #[test]
    fn nothing_changed_is_said_and_the_order_of_listeners_is_nothing() {
        let (first, second) = (format!("{BASE}{OTHER}"), format!("{OTHER}{BASE}"));
        assert_eq!(changes(&first, &first), []);
        assert_eq!(changes(&first, &second), []);
        assert_eq!(summary(&[]), "nothing changed");
    }

    #[test]
    fn the_order_of_backends_is_a_setting_of_the_pool() {
        let swapped = BASE
            .replace("\"a\"", "\"?\"")
            .replace("\"b\"", "\"a\"")
            .replace('?', "b");
        let swapped = swapped.replace("0.1:1", "0.?:1").replace("0.2:1", "0.1:1");
        let swapped = swapped.replace("0.?:1", "0.2:1");
        assert_eq!(lines(BASE, &swapped), ["pool p: order [a, b] → [b, a]"]);
    }

    #[test]
    fn sockets_follow_addresses() {
        let bind = |binds: &str| BASE.replace("\"0.0.0.0:80\"", binds);
        assert_eq!(
            lines(
                &bind("[\"127.0.0.1:80\", \"unix:/a\"]"),
                &bind("[\"unix:/b\", \"127.0.0.1:80\"]")
            ),
            [
                "listener web: bind [127.0.0.1:80, unix:/a] → [unix:/b, 127.0.0.1:80]",
                "address unix:/b: bound",
                "address unix:/a: closed"
            ]
        );
        assert_eq!(
            lines(&bind("[\"[::]:80\", \"0.0.0.0:80\"]"), &bind("\"[::]:80\"")),
            [
                "listener web: bind [[::]:80, 0.0.0.0:80] → [[::]:80]",
                "address [::]:80: bound anew",
                "address 0.0.0.0:80: closed"
            ]
        );
        let renamed = BASE.replace("\"web\"", "\"www\"");
        assert_eq!(
            lines(BASE, &renamed),
            ["listener web: removed", "listener www: added"]
        );
    }
}
