//! What happens to each train: the flow it belongs to, the backend of that flow, and the way back.

use std::hash::RandomState;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use mio::Registry;

use super::gate::{Gate, NoLeg};
use super::host::HostAddresses;
use super::leg::{Leg, Outcome, Wires};
use crate::data::counters::Ended;
use crate::data::kit::Kit;
use crate::data::listing::View;
use crate::data::mailbox::{Dropped, Route, Shared, SocketId};
use crate::data::tally::Tally;
use crate::data::token::{Subject, flow_deadline_id, flow_of};
use crate::lb::time::Tick;
use crate::lb::traffic::deadline::Wheel;
use crate::lb::traffic::flow::{self, After, Amount, Flow, FlowKey, Table, Verdict};
use crate::sys::batch::{Batch, MAX_DATAGRAM, Received, Sent, Train};
use crate::wire::proxy_header::Header;

/// The listening sockets and the flows that began on them.
pub(super) struct Flows {
    gates: Vec<Option<Gate>>,
    table: Table<Leg, RandomState>,
    wires: Wires,
    wheel: Wheel,
    /// Those that have moved datagrams.
    tally: Tally,
    /// Whose time has come, and who has not been looked at yet.
    due: Vec<u64>,
    /// Datagrams that came in trains and went alone since a turn has ended for that.
    singly: u32,
    shared: Arc<Shared>,
    worker: usize,
    /// No new flow is tried before, for want of a socket.
    lacks_until: Tick,
    host: HostAddresses,
}

impl Flows {
    pub(super) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            gates: Vec::new(),
            // Keyed from the system's randomness: nobody outside can choose collisions.
            table: Table::new(RandomState::new()),
            wires: Wires::new(Arc::clone(&shared)),
            wheel: Wheel::new(Tick::ZERO),
            tally: Tally::default(),
            due: Vec::new(),
            singly: 0,
            shared,
            worker,
            lacks_until: Tick::ZERO,
            host: HostAddresses::default(),
        }
    }

    /// Takes a listening socket in use; its place among them.
    pub(super) fn open_gate(
        &mut self,
        socket: UdpSocket,
        route: Route,
        registry: &Registry,
        kit: &Kit,
    ) -> io::Result<u32> {
        let free = self.gates.iter().position(Option::is_none);
        let place = free.unwrap_or(self.gates.len());
        let number = u32::try_from(place).map_err(io::Error::other)?;
        let mut gate = Gate::open(socket, route, self.shared.workers.len(), kit.now)?;
        gate.register(registry, Subject::Gate(number).token())?;
        if place == self.gates.len() {
            self.gates.push(None);
        }
        self.gates[place] = Some(gate);
        Ok(number)
    }

    pub(super) fn redirect(&mut self, route: impl Fn(SocketId) -> Option<Route>, kit: &Kit) {
        let workers = self.shared.workers.len();
        for place in 0..self.gates.len() {
            let Some(gate) = &mut self.gates[place] else {
                continue;
            };
            if let Some(route) = route(gate.socket_id()) {
                if gate.redirect(route, workers, kit.now) {
                    continue;
                }
            } else {
                self.gates[place] = None;
            }
            self.end_all(Ended::Removed, kit, |flow| {
                flow.route().listener() as usize == place
            });
        }
    }

    pub(super) fn views(&self) -> impl Iterator<Item = View<'_>> {
        let flows = self.table.iter();
        flows.map(|(_, flow)| flow.shell.view(flow.route().client()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn next(&self) -> Option<Tick> {
        self.wheel.next()
    }

    /// Receives on a listening socket; `None` if it is gone.
    pub(super) fn receive_at(&self, place: u32, batch: &mut Batch) -> Option<io::Result<usize>> {
        self.gate(place).map(|gate| gate.receive(batch))
    }

    /// Receives on the socket of a flow; `None` if it is over.
    pub(super) fn receive_of(
        &mut self,
        key: FlowKey,
        batch: &mut Batch,
        kit: &mut Kit,
    ) -> Option<io::Result<usize>> {
        let flow = self.table.get_mut(key)?;
        Some(flow.shell.receive(batch, kit))
    }

    /// Sends a client's train to the backend of its flow, or counts why it goes nowhere.
    pub(super) fn forward(
        &mut self,
        place: u32,
        received: &Received<'_>,
        registry: &Registry,
        kit: &mut Kit,
    ) {
        let Some(gate) = self.gate(place) else { return };
        let train = received.train;
        if received.is_cut {
            return gate.count_drop(Dropped::Cut, train.count());
        }
        if received.from.port() == 0 {
            return gate.count_drop(Dropped::Source, train.count());
        }
        let route = gate.flow(place, received);
        let takes_apart = gate.takes_trains_apart();
        let mut one = |mut train: Train<'_>| {
            if let Err(reason) = self.forward_one(place, &route, &mut train, registry, kit) {
                self.count_drop(place, reason, train.count());
            }
        };
        if takes_apart {
            train.singles().for_each(one);
            self.singly += train.count() - 1;
        } else {
            one(train);
        }
    }

    /// `train` is then what has not been sent.
    fn forward_one(
        &mut self,
        place: u32,
        route: &flow::Route,
        train: &mut Train<'_>,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Result<(), Dropped> {
        let header = self.gate(place).and_then(|gate| gate.header(route));
        let header = header.as_ref().map_or(&[][..], Header::as_bytes);
        if !header.is_empty() && header.len() + train.bytes.len() > MAX_DATAGRAM {
            return Err(Dropped::Cut);
        }
        let key = match self.table.on_client(kit.now, route, amount(*train)) {
            Verdict::Known(key) => {
                self.keep_or_move(place, key, registry, kit);
                key
            }
            Verdict::New => self.begin(place, route, *train, registry, kit)?,
        };
        for attempt in 0..ATTEMPTS {
            let flow = self.table.get_mut(key).ok_or(Dropped::Local)?;
            let was_uncounted = flow.shell.is_uncounted();
            let outcome = flow.shell.send(header, train, kit);
            if !was_uncounted && flow.shell.is_uncounted() {
                self.tally.note(flow_deadline_id(key));
            }
            match outcome {
                Outcome::Sent(sent) => {
                    if sent != Sent::Whole {
                        self.singly += train.count();
                    }
                    return Ok(());
                }
                Outcome::Lost => return Err(Dropped::Local),
                // The network has refused what was sent before: this goes elsewhere if it can.
                Outcome::Refused if attempt == 0 => self.keep_or_move(place, key, registry, kit),
                // Refused again at once: it may be this host that does.
                Outcome::Refused => self.reconnect(place, key, registry, kit)?,
            }
        }
        Err(Dropped::Local)
    }

    /// Begins a flow with its first train, on a backend that is chosen now.
    fn begin(
        &mut self,
        place: u32,
        route: &flow::Route,
        train: Train<'_>,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Result<FlowKey, Dropped> {
        if kit.drain.is_some() {
            return Err(Dropped::Stopping);
        }
        if self.is_own(place, route, kit.now) {
            return Err(Dropped::Source);
        }
        let slot = self.gates.get_mut(place as usize);
        let gate = slot.and_then(Option::as_mut).ok_or(Dropped::Local)?;
        if self.lacks_until > kit.now {
            return Err(Dropped::Local);
        }
        let admission = gate.admit(route.client().ip(), &self.shared, self.worker, kit)?;
        let dialled = gate.dial(route, train, admission, &mut self.wires, kit);
        let leg = dialled.map_err(|no_leg| match no_leg {
            NoLeg::Dropped(reason) => reason,
            NoLeg::Shortage => {
                self.lacks_until = kit.now.after(LACK);
                Dropped::Local
            }
        })?;
        let rules = gate.rules();
        let key = (self.table).insert(kit.now, *route, rules, amount(train), leg);
        self.watch(key, registry, kit)?;
        Ok(key)
    }

    /// A flow stays with its backend as long as that is up and in the configuration; else, and if
    /// another one is up, it moves there with this datagram.
    fn keep_or_move(&mut self, place: u32, key: FlowKey, registry: &Registry, kit: &mut Kit) {
        let Some(Some(gate)) = self.gates.get(place as usize) else {
            return;
        };
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let route = *flow.route();
        let leg = &mut flow.shell;
        if leg.is_well(gate.pool()) || !gate.redial(leg, &route, &mut self.wires, kit) {
            return;
        }
        flow.restart(kit.now, gate.rules());
        if self.watch(key, registry, kit).is_err() {
            log::debug!("a flow has ended: its new socket cannot be watched");
        }
    }

    fn reconnect(
        &mut self,
        place: u32,
        key: FlowKey,
        registry: &Registry,
        kit: &Kit,
    ) -> Result<(), Dropped> {
        let slot = self.gates.get(place as usize);
        let gate = slot.and_then(Option::as_ref).ok_or(Dropped::Local)?;
        let flow = self.table.get_mut(key).ok_or(Dropped::Local)?;
        let route = *flow.route();
        let done = gate.reconnect(&mut flow.shell, &route, &mut self.wires);
        done.map_err(|_| Dropped::Local)?;
        self.watch(key, registry, kit)
    }

    /// Registers the socket of a flow and sets its deadline; ends the flow if that fails.
    fn watch(&mut self, key: FlowKey, registry: &Registry, kit: &Kit) -> Result<(), Dropped> {
        let flow = self.table.get_mut(key).ok_or(Dropped::Local)?;
        let token = Subject::Flow(key).token();
        if flow.shell.register(registry, token).is_err() {
            self.end(key, Ended::Local, kit);
            return Err(Dropped::Local);
        }
        self.arm(key);
        Ok(())
    }

    /// Sends what a backend has sent to the client of the flow, which may be over then.
    pub(super) fn answer<'a>(
        &mut self,
        key: FlowKey,
        answers: impl Iterator<Item = Received<'a>>,
        kit: &Kit,
    ) -> After {
        let mut after = After::Keep;
        for received in answers {
            let Some(flow) = self.table.get_mut(key) else {
                return After::Close;
            };
            let place = flow.route().listener() as usize;
            let Some(Some(gate)) = self.gates.get_mut(place) else {
                return After::Close;
            };
            let count = received.train.count();
            if after == After::Close {
                gate.count_drop(Dropped::Late, count);
            } else if received.is_cut {
                gate.count_drop(Dropped::Cut, count);
            } else {
                let was_uncounted = flow.shell.is_uncounted();
                self.singly += pass_on(gate, flow, received.train, kit.now);
                if !was_uncounted && flow.shell.is_uncounted() {
                    self.tally.note(flow_deadline_id(key));
                }
                after = self.table.on_backend(kit.now, key, count);
            }
        }
        if after == After::Close {
            self.end(key, Ended::Finished, kit);
        }
        after
    }

    /// Ends the flows whose time has come, some in each turn: those of a flood are due together, and
    /// closing their sockets would keep everybody else waiting.
    pub(super) fn expire(&mut self, kit: &Kit) {
        if kit.drain.is_some_and(|drain| drain.until <= kit.heard) {
            self.end_all(Ended::Stopping, kit, |_| true);
        }
        if self.due.is_empty() {
            self.wheel.expire(kit.heard, &mut self.due);
        }
        let left = self.due.len().saturating_sub(ENDS_PER_TURN);
        for id in self.due.split_off(left) {
            let key = flow_of(id);
            if self.table.get(key).is_none() {
                continue; // it has ended while it waited, and another one may have its place
            }
            match self.table.on_deadline(kit.heard, key) {
                After::Keep => self.arm(key),
                After::Close => self.end(key, Ended::Idle, kit),
            }
        }
    }

    /// Whether there are flows whose time has come, and nobody has looked at them yet.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty() || self.tally.has_due()
    }

    /// Adds to the counters what flows have moved.
    pub(super) fn count_moved(&mut self, now: Tick) {
        let mut nth = 0;
        while let Some(id) = self.tally.take(nth, now) {
            if let Some(flow) = self.table.get_mut(flow_of(id)) {
                flow.shell.count();
            }
            nth += 1;
        }
    }

    /// Whether so many datagrams have gone alone that it is somebody else's turn. Whole trains cost as
    /// much as a datagram, and their number is bounded.
    pub(super) const fn is_turn_over(&mut self) -> bool {
        let is_over = self.singly >= SINGLES_PER_TURN;
        if is_over {
            self.singly = 0;
        }
        is_over
    }

    /// Whether a listening socket lets no new flows in, because it is behind.
    pub(super) fn sheds(&self, place: u32) -> bool {
        self.gate(place).is_some_and(Gate::sheds)
    }

    /// A turn of a listening socket has ended.
    pub(super) fn end_turn(&mut self, place: u32, is_cut_short: bool) {
        if let Some(Some(gate)) = self.gates.get_mut(place as usize) {
            gate.end_turn(is_cut_short);
        }
    }

    /// Ends the flows that `which` names.
    pub(super) fn end_all(&mut self, how: Ended, kit: &Kit, which: impl Fn(&Flow<Leg>) -> bool) {
        let named = self.table.iter().filter(|(_, flow)| which(flow));
        let keys: Vec<_> = named.map(|(key, _)| key).collect();
        for key in keys {
            self.end(key, how, kit);
        }
    }

    /// Whether the source is ourselves or a backend's service: an answer to it would be a question
    /// again, and go round for ever.
    fn is_own(&mut self, place: u32, route: &flow::Route, now: Tick) -> bool {
        let (client, local) = (route.client(), route.local());
        let host = &mut self.host;
        let mut is_ours = |ip| ip == local || host.contains(ip, now);
        let mut gates = self.gates.iter().flatten();
        gates.any(|gate| gate.is_at(client, &mut is_ours))
            || self
                .gate(place)
                .is_some_and(|gate| gate.pool().services.contains(&client))
    }

    fn arm(&mut self, key: FlowKey) {
        if let Some(due) = self.table.due(key) {
            self.wheel.arm(flow_deadline_id(key), due);
        }
    }

    fn end(&mut self, key: FlowKey, how: Ended, kit: &Kit) {
        self.wheel.disarm(flow_deadline_id(key));
        if let Some(flow) = self.table.remove(key) {
            flow.shell.end(how, kit);
        }
    }

    fn gate(&self, place: u32) -> Option<&Gate> {
        self.gates.get(place as usize)?.as_ref()
    }

    fn count_drop(&self, place: u32, reason: Dropped, count: u32) {
        if let Some(gate) = self.gate(place) {
            gate.count_drop(reason, count);
        }
    }
}

/// What a client's train counts for, without what goes before it to the backend.
fn amount(train: Train<'_>) -> Amount {
    Amount {
        count: train.count(),
        bytes: train.bytes.len() as u64,
    }
}

/// Sends to the client of a flow what it may be answered; how many datagrams of a train went alone.
fn pass_on(gate: &mut Gate, flow: &mut Flow<Leg>, train: Train<'_>, now: Tick) -> u32 {
    if flow.takes(train.bytes.len() as u64) {
        return send_back(gate, flow, train, now);
    }
    // Each is asked about alone: how the kernel has joined them must make no difference.
    let mut singly = 0;
    for single in train.singles() {
        if flow.takes(single.bytes.len() as u64) {
            send_back(gate, flow, single, now);
            singly += 1;
        } else {
            gate.count_drop(Dropped::Amplification, 1);
        }
    }
    singly
}

fn send_back(gate: &mut Gate, flow: &mut Flow<Leg>, train: Train<'_>, now: Tick) -> u32 {
    let sent = gate.send(train, flow.route());
    let is_whole = matches!(sent, Ok(Sent::Whole));
    let rest = sent.err().map(|unsent| unsent.rest);
    flow.shell.on_answer(train, rest, now);
    if let Some(rest) = rest {
        gate.count_drop(Dropped::Local, rest.count());
    }
    if is_whole { 0 } else { train.count() }
}

/// How long no new flow is tried after this host had no socket for one. When it has no port left, the
/// kernel takes a millisecond to find that out, which live flows would wait for each time.
const LACK: Duration = Duration::from_millis(50);

/// Datagrams of trains sent one by one before a turn ends. It is looked at between two batches.
const SINGLES_PER_TURN: u32 = 256;

/// Flows that end in a turn by their time.
const ENDS_PER_TURN: usize = 128;

/// Times a train is sent: once more to another backend when the first is refused, and once more after
/// an old refusal that had nothing to do with it.
const ATTEMPTS: usize = 3;
