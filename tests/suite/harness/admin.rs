//! The admin socket of a proxy, as any program speaks to it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::command::Outcome;
use super::wait::DEADLINE;
use super::{Config, Proxy, evenkeel};

impl Config {
    /// With an admin socket in the folder of the proxy.
    pub fn admin(self) -> Self {
        self.global("admin_socket = \"@FOLDER@/admin.sock\"")
    }
}

impl Proxy {
    pub fn admin(&self) -> PathBuf {
        self.folder().join("admin.sock")
    }

    /// A client command of this proxy.
    #[track_caller]
    pub fn client(&self, line: &str) -> Outcome {
        let socket = self.admin();
        let words = line.split_whitespace().map(Into::into);
        evenkeel(words.chain(["--admin".into(), socket.into_os_string()]))
    }

    /// What a client command has printed that has done what it was asked for.
    #[track_caller]
    pub fn told(&self, line: &str) -> String {
        let outcome = self.client(line);
        assert_eq!(outcome.code, Some(0), "{line}: {outcome:?}");
        assert_eq!(outcome.err, "", "{line}");
        outcome.out
    }

    /// The same with --json.
    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        let out = self.told(&format!("{line} --json"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.json("status")
    }

    /// What is known of a backend of the pool "pool".
    #[track_caller]
    pub fn backend(&self, name: &str) -> Value {
        let status = self.status();
        let backends = status["pools"][0]["backends"].as_array().expect("a list");
        let mut backends = backends.iter();
        let found = backends.find(|backend| backend["name"] == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {status}"))
            .clone()
    }

    pub fn dial_admin(&self) -> UnixStream {
        let stream = UnixStream::connect(self.admin()).expect("an admin socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        stream
    }

    /// What comes back for these bytes until the end, whatever that is.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.dial_admin();
        // It may have heard enough before the end.
        let _cut = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}
