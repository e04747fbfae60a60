//! A listening datagram socket of one worker: receiving, answering, and letting new flows in.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mio::event::Source;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use super::leg::{Leg, Wires, has_own_socket};
use crate::config::plan::SendProxy;
use crate::data::counters::Unserved;
use crate::data::dial::pick;
use crate::data::kit::Kit;
use crate::data::listen::{Admission, Limit};
use crate::data::mailbox::{Dropped, Pool, Route, Shared, SocketId};
use crate::lb::admission::rate::Rate;
use crate::lb::balance::pick::{Client, Picked};
use crate::lb::time::Tick;
use crate::lb::traffic::flow::{self, Rules};
use crate::sys::batch::{self, Batch, Received, Sent, Towards, Train, Unsent};
use crate::sys::datagram;
use crate::sys::socket::{canonical, is_exhaustion};
use crate::wire::proxy_header::{Header, Transport};
use crate::wire::quic;

/// A listening socket and where its flows go.
#[derive(Debug)]
pub(super) struct Gate {
    socket: UdpSocket,
    route: Route,
    local: SocketAddr,
    /// It is an IPv6 socket: IPv4 clients appear as mapped addresses.
    is_v6: bool,
    /// Its network takes trains.
    trains: bool,
    rate: Rate,
    /// More comes than can be handled: what little can be done is done for the flows that are there.
    sheds: bool,
}

/// Why there is no backend for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoLeg {
    Dropped(Dropped),
    /// This host has no descriptor, memory or port for another socket.
    Shortage,
}

impl Gate {
    pub(super) fn open(
        socket: std::net::UdpSocket,
        route: Route,
        workers: usize,
        now: Tick,
    ) -> io::Result<Self> {
        let local = socket.local_addr()?;
        Ok(Self {
            socket: UdpSocket::from_std(socket),
            rate: rate(&route, workers, now),
            route,
            local: canonical(local),
            is_v6: local.is_ipv6(),
            trains: true,
            sheds: false,
        })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token, Interest::READABLE)
    }

    /// Gives it a new route; whether its flows can go on as they are.
    pub(super) fn redirect(&mut self, route: Route, workers: usize, now: Tick) -> bool {
        let goes_on = has_own_socket(self.pool()) == has_own_socket(&route.pool);
        let is_same = self.route.pool.plan.udp == route.pool.plan.udp;
        self.route = route;
        if !is_same {
            self.rate = rate(&self.route, workers, now);
        }
        goes_on
    }

    pub(super) const fn socket_id(&self) -> SocketId {
        self.route.socket
    }

    pub(super) const fn pool(&self) -> &Arc<Pool> {
        &self.route.pool
    }

    pub(super) fn rules(&self) -> Rules {
        self.route.pool.plan.udp.rules
    }

    pub(super) fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.receive(self.socket.as_fd())
    }

    /// The flow that a client's datagram belongs to.
    pub(super) fn flow(&self, place: u32, received: &Received<'_>) -> flow::Route {
        let local = if self.local.ip().is_unspecified() {
            received.to.unwrap_or_else(|| self.local.ip())
        } else {
            self.local.ip()
        };
        flow::Route::new(place, received.from, local)
    }

    /// What goes before each datagram of a client.
    pub(super) fn header(&self, route: &flow::Route) -> Option<Header> {
        if self.pool().plan.send_proxy == SendProxy::Off {
            return None; // asked for each datagram
        }
        let client = self.client(route);
        self.pool().introduction(Transport::Datagram, Some(&client))
    }

    /// Whether each datagram of a train is looked at and sent alone: any of them may be the last
    /// request of its flow, or each gets a header.
    pub(super) fn takes_trains_apart(&self) -> bool {
        self.rules().requests != 0 || self.pool().plan.send_proxy != SendProxy::Off
    }

    /// Whether an answer sent to `address` would come to this socket, which may have bound no address
    /// by name.
    pub(super) fn is_at(&self, address: SocketAddr, is_ours: impl FnOnce(IpAddr) -> bool) -> bool {
        let (own, ip) = (self.local.ip(), address.ip());
        self.local.port() == address.port()
            && (own == ip || own.is_unspecified() && (ip.is_loopback() || is_ours(ip)))
    }

    /// Sends a train to the client of a flow, from the address that the client sends to.
    pub(super) fn send<'a>(
        &mut self,
        train: Train<'a>,
        route: &flow::Route,
    ) -> Result<Sent, Unsent<'a>> {
        let from = self.local.ip().is_unspecified().then(|| route.local());
        let to = route.client();
        let to = match to.ip() {
            IpAddr::V4(ip) if self.is_v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let sent = batch::send(
            self.socket.as_fd(),
            train,
            self.trains,
            Towards::Client { from, to },
        );
        self.trains &= !matches!(sent, Ok(Sent::WithoutTrains));
        sent
    }

    pub(super) const fn sheds(&self) -> bool {
        self.sheds
    }

    /// A turn has ended, and datagrams may be left. Where they fill a quarter of the receive buffer,
    /// which all flows share, no new flow begins until they do no more: opening one takes far longer
    /// than to receive a datagram, and a full buffer would cost live flows theirs. The rest of it is
    /// for what comes while this worker is off its core.
    pub(super) fn end_turn(&mut self, is_cut_short: bool) {
        self.sheds = is_cut_short && datagram::is_quarter_full(self.socket.as_fd());
    }

    /// Takes a place for a new flow under every limit.
    pub(super) fn admit(
        &mut self,
        client: IpAddr,
        shared: &Arc<Shared>,
        worker: usize,
        kit: &mut Kit,
    ) -> Result<Admission, Dropped> {
        let listener = &self.route.listener;
        let name = &listener.plan.name;
        if self.sheds {
            let line = format_args!("listener \"{name}\": too much comes, new flows are dropped");
            kit.notices.full.log(kit.now, line);
            return Err(Dropped::Busy);
        }
        let taken = if self.lacks_descriptors(shared) {
            Err(Limit::of_descriptors(shared).name)
        } else {
            // Its socket counts for itself.
            Admission::take(shared, listener, self.limit(shared), 0, worker)
        };
        let mut admission = taken.map_err(|limit| {
            let line =
                format_args!("listener \"{name}\": {limit} is reached, new flows are dropped");
            kit.notices.full.log(kit.now, line);
            Dropped::Full
        })?;
        // Before the rate of all, which a source that goes too far does not use up for the others.
        let entered = admission.enter(listener, client, kit.now);
        entered.inspect_err(|&reason| kit.notices.barred(kit.now, name, client, reason))?;
        if !self.rate.take(kit.now) {
            return Err(Dropped::Rate);
        }
        listener.counters.accepted.fetch_add(1, Relaxed);
        Ok(admission)
    }

    /// The lower of the limits on its flows.
    fn limit(&self, shared: &Shared) -> Limit {
        let of_listener = self.route.listener.plan.max_connections;
        let of_pool = self.pool().plan.udp.max_flows;
        let limits = [
            Limit::new("listener.max_connections", of_listener),
            Limit::new("pool.udp.max_flows", of_pool),
        ];
        let set = limits.into_iter().filter(|limit| limit.most != 0);
        // Flows that hold no descriptor must have an end, too.
        set.min_by_key(|limit| limit.most)
            .unwrap_or_else(|| Limit::of_descriptors(shared))
    }

    /// Whether a new flow would need a descriptor, and none is left for it.
    fn lacks_descriptors(&self, shared: &Shared) -> bool {
        has_own_socket(self.pool()) && shared.descriptors.load(Relaxed) >= shared.descriptors_max
    }

    /// A backend for a new flow: the one that its first datagram names, or else one that is chosen.
    pub(super) fn dial(
        &self,
        route: &flow::Route,
        first: Train<'_>,
        admission: Admission,
        wires: &mut Wires,
        kit: &mut Kit,
    ) -> Result<Leg, NoLeg> {
        let pool = &self.route.pool;
        let client = self.client(route);
        let mut tried = Vec::new();
        let mut no_leg = NoLeg::Dropped(Dropped::NoBackend);
        let mut named = self.named(first);
        // Nobody passes those who wait.
        while pool.queue.is_empty() && tried.len() <= usize::from(pool.plan.retries) {
            let choice = named
                .take()
                .or_else(|| pick(pool, &client, &tried, kit).ok());
            let Some(picked) = choice else {
                break;
            };
            match wires.wire(pool, picked.index, &client) {
                Ok(wire) => {
                    let mut history =
                        kit.history(Transport::Datagram, Some(client.source), kit.now);
                    if let Some(history) = &mut history {
                        history.on_attempts(tried.len() + 1);
                    }
                    return Ok(Leg::new(wire, picked, pool, admission, history, kit.now));
                }
                Err(error) => {
                    let line =
                        format_args!("pool \"{}\": no socket for a flow: {error}", pool.plan.name);
                    kit.notices.local.log(kit.now, line);
                    if is_exhaustion(&error) || error.kind() == io::ErrorKind::WouldBlock {
                        no_leg = NoLeg::Shortage;
                        break; // what this host lacks, it lacks for every backend
                    }
                    no_leg = NoLeg::Dropped(Dropped::Local);
                }
            }
            tried.push(picked.index);
        }
        admission.on_unserved(match no_leg {
            NoLeg::Dropped(Dropped::NoBackend) => Unserved::NoBackend,
            NoLeg::Dropped(_) | NoLeg::Shortage => Unserved::Local,
        });
        Err(no_leg)
    }

    /// The member that a connection ID of QUIC names, if that is up: a client whose address has
    /// changed goes on with the server that it had.
    fn named(&self, first: Train<'_>) -> Option<Picked> {
        let pool = &self.route.pool;
        let length = usize::from(pool.plan.udp.quic_server_id_length);
        if length == 0 {
            return None;
        }
        let datagram = first.singles().next()?.bytes;
        let server = quic::server_of(datagram, length)?;
        pool.balancer.take(*pool.server_ids.get(&server)?)
    }

    /// Moves a flow to another backend that is up; false if it stays where it is, because there is
    /// none.
    pub(super) fn redial(
        &self,
        leg: &mut Leg,
        route: &flow::Route,
        wires: &mut Wires,
        kit: &mut Kit,
    ) -> bool {
        let pool = &self.route.pool;
        let client = self.client(route);
        let place = leg.place_in(pool);
        let (current, moved) = match place {
            Some(place) if !leg.is_towards(&pool.targets[usize::from(place)]) => {
                (None, Some(place))
            }
            place => (place, None),
        };
        // A backend whose address has changed is the same one.
        let better = moved
            .and_then(|place| pool.balancer.take(place))
            .or_else(|| {
                let picked = pick(pool, &client, current.as_slice(), kit).ok()?;
                (current.is_none() || picked.lease.backend().is_up()).then_some(picked)
            });
        let wire = better.map(|picked| (wires.wire(pool, picked.index, &client), picked));
        if let Some((Ok(wire), picked)) = wire {
            leg.move_to(wire, picked, pool);
            return true;
        }
        leg.forgive();
        false
    }

    /// Gives a flow a new socket to the backend that it has: where sending fails although nothing has
    /// come back, the one it has may have an address that has left this host.
    pub(super) fn reconnect(
        &self,
        leg: &mut Leg,
        route: &flow::Route,
        wires: &mut Wires,
    ) -> io::Result<()> {
        let pool = self.pool();
        let index = leg.place_in(pool).ok_or(io::ErrorKind::NotFound)?;
        leg.rewire(wires.fresh(pool, index, &self.client(route))?);
        Ok(())
    }

    pub(super) fn count_drop(&self, reason: Dropped, count: u32) {
        self.route.listener.counters.drop_datagrams(reason, count);
    }

    fn client(&self, route: &flow::Route) -> Client {
        let destination = SocketAddr::new(route.local(), self.local.port());
        Client::new(route.client(), destination)
    }
}

/// Each worker has its share of a listener's rate: the kernel spreads flows evenly.
fn rate(route: &Route, workers: usize, now: Tick) -> Rate {
    let whole = route.pool.plan.udp.new_flows_per_second;
    let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
    Rate::new(whole.div_ceil(workers), now)
}
