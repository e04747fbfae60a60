//! Asking the proxy by HTTP, and what its metrics say.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use super::stream::connect;
use super::{Proxy, until};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The head, without its status.
    pub head: String,
    pub body: String,
}

/// Asks for a path on a connection of its own.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    )
}

/// Sends a request and reads the answer to its end.
#[track_caller]
pub fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a whole answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let (status, head) = head.split_once("\r\n").expect("a status");
    let status = status.split(' ').nth(1).expect("a status");
    Answer {
        status: status.parse().expect("a number"),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

impl Proxy {
    /// Where it listens for HTTP, as its log says last.
    #[track_caller]
    pub fn http(&self) -> SocketAddr {
        let lines = self.log.lines();
        let mut addresses = lines
            .iter()
            .filter_map(|line| line.split_once("http listening on "));
        let (_, address) = addresses.next_back().expect("it listens");
        address.parse().expect("an address")
    }

    /// Its metrics now.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let answer = get(self.http(), "/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        Metrics::read(&answer.body)
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub fn wait_metric(&self, series: &str, is_so: impl Fn(f64) -> bool) {
        until(&format!("{series} is so"), || {
            is_so(self.metrics().of(series))
        });
    }
}

/// What a page of metrics says.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Values by series: `name{label="value",…}`, labels in the order of their names.
    pub series: BTreeMap<String, f64>,
    /// Type and help by the name of a family.
    pub families: BTreeMap<String, (String, String)>,
}

impl Metrics {
    /// Reads the lines, by a parser that knows nothing of us.
    #[track_caller]
    pub fn read(page: &str) -> Self {
        let lines = page.lines().map(|line| Ok(line.to_owned()));
        let scrape = prometheus_parse::Scrape::parse(lines).expect("the text format");
        let mut series = BTreeMap::new();
        let mut add = |name: &str, labels: &BTreeMap<&str, &str>, value: f64| {
            let labels: Vec<_> = labels
                .iter()
                .map(|(key, value)| format!("{key}=\"{value}\""))
                .collect();
            let name = match labels.is_empty() {
                true => name.to_owned(),
                false => format!("{name}{{{}}}", labels.join(",")),
            };
            assert_eq!(series.insert(name.clone(), value), None, "{name} twice");
        };
        for sample in &scrape.samples {
            let labels: BTreeMap<&str, &str> = sample
                .labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            match &sample.value {
                prometheus_parse::Value::Counter(value)
                | prometheus_parse::Value::Gauge(value)
                | prometheus_parse::Value::Untyped(value) => add(&sample.metric, &labels, *value),
                prometheus_parse::Value::Histogram(buckets) => {
                    for bucket in buckets {
                        let bound = bucket.less_than.to_string();
                        let mut labels = labels.clone();
                        labels.insert("le", &bound);
                        add(&format!("{}_bucket", sample.metric), &labels, bucket.count);
                    }
                }
                prometheus_parse::Value::Summary(_) => panic!("a summary: {sample:?}"),
            }
        }
        let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("# ")) {
            let mut words = line.splitn(3, ' ');
            let (kind, name) = (words.next().expect("one"), words.next().expect("a name"));
            let family = families.entry(name.to_owned()).or_default();
            let text = words.next().expect("a text").to_owned();
            match kind {
                "TYPE" => family.0 = text,
                "HELP" => family.1 = text,
                other => panic!("{other}: {line}"),
            }
        }
        Self { series, families }
    }

    /// The value of one series.
    #[track_caller]
    pub fn of(&self, series: &str) -> f64 {
        let value = self.series.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in {:#?}", self.series.keys()))
    }

    /// The sum over all series whose name begins so.
    pub fn sum(&self, start: &str) -> f64 {
        let of_it = self
            .series
            .iter()
            .filter(|(name, _)| name.starts_with(start));
        of_it.map(|(_, value)| value).sum()
    }
}
