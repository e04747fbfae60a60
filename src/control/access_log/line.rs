//! A line of the access log: who came, where they went, what it took and why it ended.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::config::plan::LogFormat;
use crate::data::mailbox::Record;
use crate::wire::proxy_header::Transport;

/// Appends the line of `record`, which ended at `time`.
pub(super) fn append(text: &mut Vec<u8>, format: LogFormat, time: SystemTime, record: &Record) {
    let line = Line { time, record };
    let written = match format {
        LogFormat::Text => line.text(text),
        LogFormat::Json => line.json(text),
    };
    debug_assert!(written.is_ok(), "a vector takes everything");
}

struct Line<'a> {
    time: SystemTime,
    record: &'a Record,
}

impl Line<'_> {
    fn text(&self, text: &mut Vec<u8>) -> io::Result<()> {
        let record = self.record;
        let time = humantime::format_rfc3339_millis(self.time);
        let (protocol, client, cause) = (self.protocol(), self.client(), record.cause);
        let listener = Plain(&record.listener.name);
        // So that the first slash ends the name of the pool.
        let pool = Plain(&record.pool.name).to_string().replace('/', "\\u{2f}");
        let backend = match &record.backend {
            None => "-".to_owned(),
            // That is what stands for none.
            Some(backend) if backend.name() == "-" => "\\u{2d}".to_owned(),
            Some(backend) => Plain(backend.name()).to_string(),
        };
        write!(
            text,
            "{time} {protocol} {listener} {client} {pool}/{backend} {cause}"
        )?;
        for (name, number) in self.numbers() {
            match number {
                Some(number) => write!(text, " {name}={number}")?,
                None => write!(text, " {name}=-")?,
            }
        }
        text.write_all(b"\n")
    }

    fn json(&self, text: &mut Vec<u8>) -> io::Result<()> {
        let record = self.record;
        let time = humantime::format_rfc3339_millis(self.time).to_string();
        let client = self.client();
        let words = [
            ("time", Some(&*time)),
            ("protocol", Some(self.protocol())),
            ("listener", Some(&*record.listener.name)),
            ("client", Some(&*client)),
            ("pool", Some(&*record.pool.name)),
            (
                "backend",
                record.backend.as_ref().map(|backend| backend.name()),
            ),
        ];
        text.write_all(b"{")?;
        for (name, word) in words {
            write!(text, "\"{name}\":{},", Value::from(word))?;
        }
        write!(text, "\"cause\":\"{}\"", record.cause)?;
        for (name, number) in self.numbers() {
            write!(text, ",\"{name}\":{}", Value::from(number))?;
        }
        text.write_all(b"}\n")
    }

    const fn protocol(&self) -> &'static str {
        match self.record.transport {
            Transport::Stream => "tcp",
            Transport::Datagram => "udp",
        }
    }

    fn client(&self) -> String {
        let client = self.record.client;
        client.map_or_else(|| "unix".to_owned(), |client| client.to_string())
    }

    /// What is counted and measured; `None` = it has not been.
    fn numbers(&self) -> [(&'static str, Option<u64>); 7] {
        let record = self.record;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        [
            ("bytes_to_backend", Some(record.bytes_to_backend)),
            ("bytes_to_client", Some(record.bytes_to_client)),
            ("queue_ms", Some(ms(record.queued))),
            ("connect_ms", record.connecting.map(ms)),
            ("first_byte_ms", record.first_byte.map(ms)),
            ("total_ms", Some(ms(record.total))),
            ("attempts", Some(u64::from(record.attempts))),
        ]
    }
}

/// A name as one word: a backend without a name is called by its path, which may hold anything.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_whitespace() || c.is_control() || c == '\\' {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{load, plan};
    use crate::data::mailbox::ListenerCounters;
    use crate::lb::backend::BackendState;
    use crate::lb::time::Tick;
    use crate::lb::traffic::cause::{By, Cause, State};

    fn record() -> Record {
        let plan = load(
            "[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:1\"\npool = \"p\"\n\
             [[pool.p.backend]]\naddress = \"127.0.0.1:2\"\n",
            "",
        )
        .unwrap();
        Record {
            ended: Tick::from_ms(5_000),
            transport: Transport::Stream,
            listener: Arc::new(ListenerCounters::new("l")),
            client: Some("[2001:db8::1]:7".parse().unwrap()),
            pool: Arc::clone(&plan.pools[0]),
            backend: Some(Arc::new(BackendState::new("p", "unix:/a \"b\n", true))),
            bytes_to_backend: 1,
            bytes_to_client: 2,
            queued: Duration::ZERO,
            connecting: Some(Duration::from_millis(3)),
            first_byte: Some(Duration::from_millis(4)),
            total: Duration::from_secs(5),
            attempts: 6,
            cause: Cause::new(By::Client, State::Normal),
        }
    }

    fn line(format: LogFormat, record: &Record) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_001_002);
        let mut text = Vec::new();
        append(&mut text, format, time, record);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_line_of_text_is_words_whatever_a_name_holds() {
        assert_eq!(
            line(LogFormat::Text, &record()),
            "2001-09-09T01:46:41.002Z tcp l [2001:db8::1]:7 p/unix:/a\\u{20}\"b\\u{a} CN \
             bytes_to_backend=1 bytes_to_client=2 queue_ms=0 connect_ms=3 first_byte_ms=4 total_ms=5000 \
             attempts=6\n"
        );
    }

    #[test]
    fn a_line_of_json_is_an_object_whatever_a_name_holds() {
        assert_eq!(
            line(LogFormat::Json, &record()),
            "{\"time\":\"2001-09-09T01:46:41.002Z\",\"protocol\":\"tcp\",\"listener\":\"l\",\
             \"client\":\"[2001:db8::1]:7\",\"pool\":\"p\",\"backend\":\"unix:/a \\\"b\\n\",\
             \"cause\":\"CN\",\"bytes_to_backend\":1,\"bytes_to_client\":2,\"queue_ms\":0,\
             \"connect_ms\":3,\"first_byte_ms\":4,\"total_ms\":5000,\"attempts\":6}\n"
        );
    }

    #[test]
    fn what_has_not_been_says_so() {
        let refused = Record {
            client: None,
            backend: None,
            connecting: None,
            first_byte: None,
            ..record()
        };
        let text = line(LogFormat::Text, &refused);
        assert!(text.contains(" unix p/- CN "), "{text}");
        assert!(text.contains(" connect_ms=- first_byte_ms=- "), "{text}");
        let json = line(LogFormat::Json, &refused);
        let object: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["client"], "unix");
        for key in ["backend", "connect_ms", "first_byte_ms"] {
            assert!(object[key].is_null(), "{json}");
        }
    }

    #[test]
    fn the_first_slash_ends_the_name_of_the_pool() {
        let plan = plan::Pool {
            name: "a/b".to_owned(),
            ..(*record().pool).clone()
        };
        let odd = Record {
            pool: Arc::new(plan),
            backend: Some(Arc::new(BackendState::new("a/b", "-", true))),
            ..record()
        };
        let text = line(LogFormat::Text, &odd);
        assert!(text.contains(" a\\u{2f}b/\\u{2d} CN "), "{text}");
    }
}
