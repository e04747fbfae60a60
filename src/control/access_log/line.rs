//! A line of the access log: who came, where they went, what it took and why it ended.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime};

use crate::config::plan::LogFormat;
use crate::data::mailbox::{Protocol, Record};

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
        write!(
            text,
            "{} {} {} ",
            humantime::format_rfc3339_millis(self.time),
            protocol(record.protocol),
            Plain(&record.listener.name)
        )?;
        match record.client {
            Some(client) => write!(text, "{client}")?,
            None => text.write_all(b"unix")?,
        }
        let pool = Plain(&record.pool.name).to_string();
        // So that the first one ends it.
        write!(text, " {}/", pool.replace('/', "\\u{2f}"))?;
        match &record.backend {
            // That is what stands for none.
            Some(backend) if backend.name() == "-" => text.write_all(b"\\u{2d}")?,
            Some(backend) => write!(text, "{}", Plain(backend.name()))?,
            None => text.write_all(b"-")?,
        }
        writeln!(
            text,
            " {} to_backend={} to_client={} queue_ms={} connect_ms={} first_byte_ms={} total_ms={} \
             attempts={}",
            record.cause,
            record.bytes_to_backend,
            record.bytes_to_client,
            record.queued.as_millis(),
            Milliseconds(record.connecting, "-"),
            Milliseconds(record.first_byte, "-"),
            record.total.as_millis(),
            record.attempts
        )
    }

    fn json(&self, text: &mut Vec<u8>) -> io::Result<()> {
        let record = self.record;
        write!(
            text,
            "{{\"time\":\"{}\",\"protocol\":\"{}\",\"listener\":{},\"client\":",
            humantime::format_rfc3339_millis(self.time),
            protocol(record.protocol),
            quoted(&record.listener.name)
        )?;
        match record.client {
            Some(client) => write!(text, "\"{client}\"")?,
            None => text.write_all(b"\"unix\"")?,
        }
        let backend = record.backend.as_ref();
        let backend = backend.map_or_else(|| "null".to_owned(), |backend| quoted(backend.name()));
        writeln!(
            text,
            ",\"pool\":{},\"backend\":{backend},\"cause\":\"{}\",\"bytes_to_backend\":{},\
             \"bytes_to_client\":{},\"queue_ms\":{},\"connect_ms\":{},\"first_byte_ms\":{},\
             \"total_ms\":{},\"attempts\":{}}}",
            quoted(&record.pool.name),
            record.cause,
            record.bytes_to_backend,
            record.bytes_to_client,
            record.queued.as_millis(),
            Milliseconds(record.connecting, "null"),
            Milliseconds(record.first_byte, "null"),
            record.total.as_millis(),
            record.attempts
        )
    }
}

const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
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

/// A duration, or what stands for none.
struct Milliseconds(Option<Duration>, &'static str);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(duration) => write!(f, "{}", duration.as_millis()),
            None => f.write_str(self.1),
        }
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
            protocol: Protocol::Tcp,
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
             to_backend=1 to_client=2 queue_ms=0 connect_ms=3 first_byte_ms=4 total_ms=5000 \
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
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
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
