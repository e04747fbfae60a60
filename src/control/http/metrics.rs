//! The snapshot as Prometheus reads it: one table of all metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::control::status::{Activity, AdminState, Backend, Listener, Pool, Status};
use crate::lb::histogram::Snapshot;

/// The page of this status.
pub(super) fn page(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(status)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Its media type.
pub(super) const TYPE: &str = prometheus_text::CONTENT_TYPE;

#[derive(Debug)]
struct Page(Status);

/// A metric. Counters get `_total` behind their names.
struct Metric {
    name: &'static str,
    help: &'static str,
    values: Values,
}

/// Where its values come from.
enum Values {
    Counter(fn(&Status, &mut Put<'_, u64>)),
    Gauge(fn(&Status, &mut Put<'_, u64>)),
    Seconds(fn(&Status, &mut Put<'_, f64>)),
    Histogram(fn(&Status, &mut Put<'_, Snapshot>)),
}

/// Takes one value and the labels that it has.
type Put<'a, T> = dyn FnMut(&[Label<'_>], T) + 'a;

type Label<'a> = (&'a str, &'a str);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        METRICS
            .iter()
            .try_for_each(|metric| metric.encode(&self.0, &mut encoder))
    }
}

impl Metric {
    fn encode(&self, status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.values {
            Values::Counter(_) => MetricType::Counter,
            Values::Gauge(_) | Values::Seconds(_) => MetricType::Gauge,
            Values::Histogram(_) => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        let mut ended = Ok(());
        let mut put =
            |labels: &[Label<'_>], value: &dyn Fn(&mut MetricEncoder<'_>) -> fmt::Result| {
                if ended.is_ok() {
                    ended = match labels {
                        [] => value(&mut metric),
                        labels => metric
                            .encode_family(&labels)
                            .and_then(|mut one| value(&mut one)),
                    };
                }
            };
        match self.values {
            Values::Counter(values) => values(status, &mut |labels, count| {
                put(labels, &|one| {
                    one.encode_counter::<NoLabelSet, _, u64>(&count, None)
                });
            }),
            Values::Gauge(values) => values(status, &mut |labels, number| {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                put(labels, &|one| one.encode_gauge(&number));
            }),
            Values::Seconds(values) => values(status, &mut |labels, seconds| {
                put(labels, &|one| one.encode_gauge(&seconds));
            }),
            Values::Histogram(values) => values(status, &mut |labels, snapshot| {
                put(labels, &|one| encode_histogram(one, &snapshot));
            }),
        }
        ended
    }
}

fn encode_histogram(one: &mut MetricEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let mut before = 0;
    let own = |(bound, total)| (bound, total - std::mem::replace(&mut before, total));
    let buckets: Vec<(f64, u64)> = snapshot.cumulative().map(own).collect();
    let (sum, count) = (snapshot.sum_seconds(), snapshot.count());
    one.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

const fn counter(
    name: &'static str,
    help: &'static str,
    values: fn(&Status, &mut Put<'_, u64>),
) -> Metric {
    let values = Values::Counter(values);
    Metric { name, help, values }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    values: fn(&Status, &mut Put<'_, u64>),
) -> Metric {
    let values = Values::Gauge(values);
    Metric { name, help, values }
}

const fn seconds(
    name: &'static str,
    help: &'static str,
    values: fn(&Status, &mut Put<'_, f64>),
) -> Metric {
    let values = Values::Seconds(values);
    Metric { name, help, values }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    values: fn(&Status, &mut Put<'_, Snapshot>),
) -> Metric {
    let values = Values::Histogram(values);
    Metric { name, help, values }
}

/// Each listener of `protocol` with its label.
fn listeners<'a>(
    status: &'a Status,
    protocol: &'static str,
) -> impl Iterator<Item = (Label<'a>, &'a Listener)> {
    let of_protocol = move |it: &&Listener| it.protocol == protocol;
    let listeners = status.listeners.iter().filter(of_protocol);
    listeners.map(|it| (("listener", it.name.as_str()), it))
}

fn any_listeners(status: &Status) -> impl Iterator<Item = (Label<'_>, &Listener)> {
    let listeners = status.listeners.iter();
    listeners.map(|it| (("listener", it.name.as_str()), it))
}

fn pools(status: &Status) -> impl Iterator<Item = (Label<'_>, &Pool)> {
    status
        .pools
        .iter()
        .map(|it| (("pool", it.name.as_str()), it))
}

fn backends(status: &Status) -> impl Iterator<Item = ([Label<'_>; 2], &Backend)> {
    pools(status).flat_map(|(pool, it)| {
        let backends = it.backends.iter();
        backends.map(move |it| ([pool, ("backend", it.name.as_str())], it))
    })
}

/// One value for each reason. Their names have no spaces here.
fn by_reason<'a>(
    labels: &[Label<'_>],
    key: &str,
    counts: impl IntoIterator<Item = (&'a &'static str, &'a u64)>,
    put: &mut Put<'_, u64>,
) {
    for (reason, count) in counts {
        let reason = reason.replace(' ', "_");
        let mut labels = labels.to_vec();
        labels.push((key, &reason));
        put(&labels, *count);
    }
}

fn both_ways(labels: &[Label<'_>], counts: [u64; 2], put: &mut Put<'_, u64>) {
    for (direction, count) in ["to_backend", "to_client"].into_iter().zip(counts) {
        let mut labels = labels.to_vec();
        labels.push(("direction", direction));
        put(&labels, count);
    }
}

/// What may be said of a backend, and whether it is.
fn orders(backend: &Backend) -> [(&'static str, bool); 3] {
    [
        ("ready", backend.admin == AdminState::Ready),
        ("drain", backend.admin == AdminState::Drain),
        ("down", backend.admin == AdminState::Down),
    ]
}

// One row a metric, so that they read as the table they are.
#[rustfmt::skip]
const METRICS: &[Metric] = &[
    gauge("evenkeel_build_info", "Always 1; the label says which version runs.",
        |status, put| put(&[("version", status.version)], 1)),
    seconds("evenkeel_uptime_seconds", "Since the start of the process.",
        |status, put| put(&[], status.uptime_s)),
    gauge("evenkeel_config_generation", "Counts the configurations that were put in force.",
        |status, put| put(&[], status.generation)),
    counter("evenkeel_reloads", "Reloads, by how they ended.",
        |status, put| {
            put(&[("result", "succeeded")], status.reloads.succeeded);
            put(&[("result", "failed")], status.reloads.failed);
        }),
    gauge("evenkeel_draining", "1 while the process stops and lets sessions end.",
        |status, put| put(&[], u64::from(status.state == Activity::Draining))),
    gauge("evenkeel_connections_limit",
        "Sessions and flows that may be open at once; 0 = as many as descriptors allow.",
        |status, put| put(&[], status.connections.max.into())),
    counter("evenkeel_access_log_lost", "Lines of the access log that nobody took in time.",
        |status, put| put(&[], status.access_log_lost)),

    histogram("evenkeel_worker_loop_seconds",
        "Turns of each worker's loop, without the wait for something to do.",
        |status, put| for it in &status.workers {
            put(&[("worker", &it.index.to_string())], it.busy.0);
        }),
    gauge("evenkeel_worker_sessions", "Sessions and flows of each worker.",
        |status, put| for it in &status.workers {
            put(&[("worker", &it.index.to_string())], it.sessions.into());
        }),

    gauge("evenkeel_listener_accepting",
        "1 if it takes clients; 0 while a limit is reached or descriptors are lacking.",
        |status, put| for (listener, it) in any_listeners(status) {
            put(&[listener], it.is_accepting.into());
        }),
    counter("evenkeel_connections_opened", "Connections accepted.",
        |status, put| for (listener, it) in listeners(status, "tcp") {
            put(&[listener], it.accepted);
        }),
    gauge("evenkeel_connections_open",
        "Connections open, those that wait for a backend among them.",
        |status, put| for (listener, it) in listeners(status, "tcp") {
            put(&[listener], it.open.into());
        }),
    counter("evenkeel_connections_refused",
        "Connections that were accepted and not served, by reason.",
        |status, put| for (listener, it) in listeners(status, "tcp") {
            by_reason(&[listener], "reason", &it.refused_by, put);
        }),
    counter("evenkeel_connections_ended",
        "Connections that are over and were not refused, by how they ended.",
        |status, put| for (listener, it) in listeners(status, "tcp") {
            by_reason(&[listener], "reason", &it.ended, put);
        }),
    counter("evenkeel_bytes", "Bytes sent, also of what is still open: counted once a second.",
        |status, put| for (listener, it) in any_listeners(status) {
            both_ways(&[listener], [it.bytes_to_backend, it.bytes_to_client], put);
        }),

    counter("evenkeel_udp_flows_opened", "Flows begun.",
        |status, put| for (listener, it) in listeners(status, "udp") {
            put(&[listener], it.accepted);
        }),
    gauge("evenkeel_udp_flows_open", "Flows open.",
        |status, put| for (listener, it) in listeners(status, "udp") {
            put(&[listener], it.open.into());
        }),
    counter("evenkeel_udp_flows_refused", "Flows that were begun and got no backend, by reason.",
        |status, put| for (listener, it) in listeners(status, "udp") {
            by_reason(&[listener], "reason", &it.refused_by, put);
        }),
    counter("evenkeel_udp_flows_ended",
        "Flows that are over and were not refused, by how they ended.",
        |status, put| for (listener, it) in listeners(status, "udp") {
            by_reason(&[listener], "reason", &it.ended, put);
        }),
    counter("evenkeel_udp_datagrams", "Datagrams sent.",
        |status, put| for (listener, it) in listeners(status, "udp") {
            both_ways(&[listener], [it.datagrams_to_backend, it.datagrams_to_client], put);
        }),
    counter("evenkeel_udp_dropped", "Datagrams that went nowhere, by reason.",
        |status, put| for (listener, it) in listeners(status, "udp") {
            by_reason(&[listener], "reason", &it.dropped, put);
        }),

    gauge("evenkeel_pool_panic", "1 while so few of its backends are well that all are used.",
        |status, put| for (pool, it) in pools(status) { put(&[pool], it.is_in_panic.into()); }),
    gauge("evenkeel_queue_length", "Clients that wait for a backend.",
        |status, put| for (pool, it) in pools(status) { put(&[pool], it.queue.length.into()); }),
    gauge("evenkeel_queue_limit", "Clients that may wait.",
        |status, put| for (pool, it) in pools(status) { put(&[pool], it.queue.limit.into()); }),
    seconds("evenkeel_queue_oldest_seconds",
        "How long the first in the queue has waited; 0 = nobody waits.",
        |status, put| for (pool, it) in pools(status) {
            put(&[pool], it.queue.oldest_ms as f64 / 1e3);
        }),
    histogram("evenkeel_queue_wait_seconds", "How long clients waited, whatever came of it.",
        |status, put| for (pool, it) in pools(status) { put(&[pool], it.queue.waited.0); }),
    counter("evenkeel_queue_left", "Clients that waited or wanted to, by what became of them.",
        |status, put| for (pool, it) in pools(status) {
            by_reason(&[pool], "reason", &it.queue.left, put);
        }),

    gauge("evenkeel_backend_up", "1 if its health lets it take sessions.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.is_up.into()); }),
    gauge("evenkeel_backend_ejected", "1 while it takes no sessions because traffic failed on it.",
        |status, put| for (labels, it) in backends(status) {
            put(&labels, it.ejected_for_s.is_some().into());
        }),
    gauge("evenkeel_backend_orders", "1 for what its operator has said of it.",
        |status, put| for ([pool, backend], it) in backends(status) {
            for (order, is_it) in orders(it) {
                put(&[pool, backend, ("order", order)], is_it.into());
            }
        }),
    gauge("evenkeel_backend_weight", "The weight in force.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.weight.into()); }),
    gauge("evenkeel_backend_open", "Sessions and flows open or about to be.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.open.into()); }),
    gauge("evenkeel_backend_busy", "Sessions that wait for an answer or get one.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.busy.into()); }),
    gauge("evenkeel_backend_limit", "Sessions that may be open, or busy; 0 = any number.",
        |status, put| for (labels, it) in backends(status) {
            put(&labels, it.max_connections.into());
        }),
    counter("evenkeel_backend_sessions", "Sessions and flows that it took.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.sessions); }),
    counter("evenkeel_backend_connect_failures",
        "Connects that failed or timed out, and refusals of flows.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.connect_failures); }),
    histogram("evenkeel_backend_connect_seconds", "How long connects took that succeeded.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.connected.0); }),
    histogram("evenkeel_backend_first_byte_seconds",
        "From the first byte of a question to the first of its answer.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.first_byte.0); }),
    histogram("evenkeel_backend_gap_seconds",
        "Between one chunk of an answer and the next, where it is a millisecond or more.",
        |status, put| for (labels, it) in backends(status) { put(&labels, it.gap.0); }),
    counter("evenkeel_backend_bytes", "Bytes sent to it and to clients by it, once a second.",
        |status, put| for (labels, it) in backends(status) {
            both_ways(&labels, [it.bytes_to_backend, it.bytes_to_client], put);
        }),
    counter("evenkeel_backend_udp_datagrams", "Datagrams sent to it and to clients by it.",
        |status, put| for (labels, it) in backends(status) {
            both_ways(&labels, [it.datagrams_to_backend, it.datagrams_to_client], put);
        }),
    counter("evenkeel_backend_probes", "Probes, by how they ended.",
        |status, put| for (labels, it) in backends(status) {
            by_reason(&labels, "result", &it.probes, put);
        }),
];
