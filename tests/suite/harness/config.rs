//! A configuration as text, with the parts a case cares about.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Axis;

/// One listener "front" on port 0 in front of one pool "pool", and whatever is added to them.
#[derive(Clone, Debug)]
pub struct Config {
    global: Vec<String>,
    listener: Vec<String>,
    pool: Vec<String>,
    health: Vec<String>,
    outlier: Vec<String>,
    udp: Vec<String>,
    backends: Vec<(String, Vec<String>)>,
    more: String,
}

impl Config {
    /// No backend yet, no probes, no ejection, one attempt after another without mercy.
    ///
    /// `EVENKEEL_TEST_SANDBOX=strict` runs the cases in the sandbox that is not the default.
    pub fn new(axis: Axis) -> Self {
        let mut global = vec![
            format!("workers = {}", axis.workers),
            format!("splice = \"{}\"", axis.splice),
            "admin_socket = \"\"".to_owned(), // many processes run at a time
            "http = \"\"".to_owned(),
        ];
        if let Ok(sandbox) = std::env::var("EVENKEEL_TEST_SANDBOX") {
            global.push(format!("sandbox = \"{sandbox}\""));
        }
        Self {
            global,
            listener: vec![format!("bind = \"{}\"", axis.family.any())],
            pool: Vec::new(),
            health: Vec::new(),
            outlier: Vec::new(),
            udp: Vec::new(),
            backends: Vec::new(),
            more: String::new(),
        }
    }

    /// Backends named by letters from "a" on.
    pub fn of(axis: Axis, backends: &[SocketAddr]) -> Self {
        let mut config = Self::new(axis);
        for address in backends {
            config = config.backend(&address.to_string());
        }
        config
    }

    pub fn global(mut self, setting: &str) -> Self {
        set(&mut self.global, setting);
        self
    }

    pub fn listener(mut self, setting: &str) -> Self {
        set(&mut self.listener, setting);
        self
    }

    pub fn pool(mut self, setting: &str) -> Self {
        set(&mut self.pool, setting);
        self
    }

    /// For datagrams: flows that end soon after their last one.
    pub fn udp(axis: Axis, backends: &[SocketAddr]) -> Self {
        let mut config = Self::of(axis, backends).listener("protocol = \"udp\"");
        set(&mut config.udp, "idle_timeout = \"300ms\"");
        config
    }

    /// A setting of the flows.
    pub fn flows(mut self, setting: &str) -> Self {
        set(&mut self.udp, setting);
        self
    }

    /// A setting of the probes, which are of type "tcp" then unless the setting is a type.
    pub fn health(mut self, setting: &str) -> Self {
        set(&mut self.health, setting);
        self
    }

    /// A setting of the ejection of backends, which is on then unless the setting says otherwise.
    pub fn outlier(mut self, setting: &str) -> Self {
        set(&mut self.outlier, setting);
        self
    }

    /// One more backend, under the next letter.
    pub fn backend(mut self, address: &str) -> Self {
        let name = letter(self.backends.len());
        self.backends
            .push((name, vec![format!("address = \"{address}\"")]));
        self
    }

    /// A setting of the last backend.
    pub fn with(mut self, setting: &str) -> Self {
        match setting.split_once(" = ") {
            Some(("name", name)) => {
                self.backends.last_mut().expect("a backend").0 = name.trim_matches('"').to_owned();
            }
            _ => set(&mut self.backends.last_mut().expect("a backend").1, setting),
        }
        self
    }

    /// Without the backend of this name.
    pub fn without(mut self, name: &str) -> Self {
        let before = self.backends.len();
        self.backends.retain(|(other, _)| other != name);
        assert_eq!(self.backends.len() + 1, before, "no backend {name}");
        self
    }

    /// Whole tables, as they are.
    pub fn more(mut self, text: &str) -> Self {
        writeln!(self.more, "{text}").expect("a String");
        self
    }

    /// One more listener to the same pool, on an address of its own.
    pub fn also_listening(self, name: &str, bind: &str) -> Self {
        self.more(&format!(
            "[[listener]]\nname = \"{name}\"\nbind = {bind}\npool = \"pool\""
        ))
    }

    pub fn text(&self) -> String {
        let health = if self.health.is_empty() {
            "type = \"none\"".to_owned()
        } else {
            self.health.join("\n")
        };
        let outlier = if self.outlier.is_empty() {
            "consecutive_failures = 0".to_owned()
        } else {
            self.outlier.join("\n")
        };
        let mut text = format!(
            "[global]\n{}\n\n[[listener]]\nname = \"front\"\npool = \"pool\"\n{}\n\n[pool.pool]\n{}\n\n\
             [pool.pool.health]\n{health}\n\n[pool.pool.outlier]\n{outlier}\n\n[pool.pool.udp]\n{}\n",
            self.global.join("\n"),
            self.listener.join("\n"),
            self.pool.join("\n"),
            self.udp.join("\n"),
        );
        for (name, settings) in &self.backends {
            write!(
                text,
                "\n[[pool.pool.backend]]\nname = \"{name}\"\n{}\n",
                settings.join("\n")
            )
            .expect("a String");
        }
        text + "\n" + &self.more
    }
}

/// Adds a setting or replaces the one with the same key.
fn set(settings: &mut Vec<String>, setting: &str) {
    let key = |setting: &str| {
        setting
            .split('=')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    settings.retain(|other| key(other) != key(setting));
    settings.push(setting.to_owned());
}

fn letter(place: usize) -> String {
    match u8::try_from(place) {
        Ok(place) if place < 26 => char::from(b'a' + place).to_string(),
        _ => format!("backend-{place}"),
    }
}
