//! UDP flows: which conversation a datagram belongs to, how much may be answered in it, and when it is
//! over. Sees addresses, counts, sizes and times, never payload.
//!
//! One input, one answer. A datagram costs one look-up and a few stores: deadlines are corrected when
//! they fire, so nothing ever scans the table. The table is keyed: whoever chooses source addresses
//! cannot choose collisions.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use slotmap::{SlotMap, new_key_type};

use crate::lb::time::Tick;

new_key_type! {
    /// A flow of one table.
    pub struct FlowKey;
}

/// Who talks to what: what makes two datagrams the same flow. 44 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    client: Ipv6Addr,
    local: Ipv6Addr,
    client_port: u16,
    /// The link that the client's address belongs to, where that is link-local.
    scope: u32,
    listener: u32,
}

impl Route {
    /// The flow of a client's datagrams to an address of ours. `listener` tells listeners apart.
    pub fn new(listener: u32, client: SocketAddr, local: IpAddr) -> Self {
        Self {
            client: mapped(client.ip()),
            local: mapped(local),
            client_port: client.port(),
            scope: match client {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(client) => client.scope_id(),
            },
            listener,
        }
    }

    /// The listener it came through.
    pub const fn listener(&self) -> u32 {
        self.listener
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        match self.client.to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(ip.into(), self.client_port),
            None => SocketAddrV6::new(self.client, self.client_port, 0, self.scope).into(),
        }
    }

    /// The address of ours that the client sends to.
    pub fn local(&self) -> IpAddr {
        IpAddr::V6(self.local).to_canonical()
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// When a flow is over, and what it may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Silence that ends it.
    pub idle: Duration,
    /// Whether a backend is expected to answer.
    pub answers: Answers,
    /// Datagrams of the client after which the next one begins a new flow; 0 = any number.
    pub requests: u32,
    /// Bytes of answers to each byte of the client; 0 = any number.
    pub amplification: u32,
}

/// What a client has sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Datagrams.
    pub count: u32,
    /// Their payload.
    pub bytes: u64,
}

/// What a flow expects from its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Nothing: what the client sends keeps it alive.
    None,
    /// Some, for as long as it lives. One that is never answered ends early, and a backend that has
    /// been silent for twice the idle time ends it however much the client sends.
    Any,
    /// So many to each datagram of the client; with the last of them it is over.
    Each(u32),
}

/// Where a client's datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the backend of this flow.
    Known(FlowKey),
    /// To a backend that must be chosen now.
    New,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on.
    Keep,
    /// It is over.
    Close,
}

/// A worker's flows, each with something of its shell's own.
#[derive(Debug)]
pub struct Table<T, S> {
    index: HashMap<Route, FlowKey, S>,
    flows: SlotMap<FlowKey, Flow<T>>,
}

/// One conversation.
#[derive(Debug)]
pub struct Flow<T> {
    route: Route,
    rules: Rules,
    /// When either side was heard last.
    heard: Tick,
    /// When the backend was heard last, or the flow began.
    answered: Tick,
    requests: u32,
    responses: u32,
    /// Bytes that may still be answered, where that has a limit.
    allowance: u64,
    /// What the shell keeps with it.
    pub shell: T,
}

impl<T, S: BuildHasher> Table<T, S> {
    /// An empty table; `hasher` must be keyed with something no client knows.
    pub fn new(hasher: S) -> Self {
        Self {
            index: HashMap::with_hasher(hasher),
            flows: SlotMap::with_key(),
        }
    }

    /// Datagrams of a client have come. A flow that has had its number of requests stays for its
    /// answers, and the client's next datagram begins another.
    pub fn on_client(&mut self, now: Tick, route: &Route, amount: Amount) -> Verdict {
        let Some(&key) = self.index.get(route) else {
            return Verdict::New;
        };
        let Some(flow) = self.flows.get_mut(key) else {
            return Verdict::New;
        };
        if flow.rules.requests != 0 && flow.requests >= flow.rules.requests {
            self.index.remove(route);
            return Verdict::New;
        }
        flow.heard = now;
        flow.requests = flow.requests.saturating_add(amount.count);
        let earned = flow.rules.allowance_for(amount.bytes);
        flow.allowance = flow.allowance.saturating_add(earned);
        Verdict::Known(key)
    }

    /// Begins a flow with its first datagrams.
    pub fn insert(
        &mut self,
        now: Tick,
        route: Route,
        rules: Rules,
        first: Amount,
        shell: T,
    ) -> FlowKey {
        let key = self.flows.insert(Flow {
            route,
            rules,
            heard: now,
            answered: now,
            requests: first.count,
            responses: 0,
            allowance: rules.allowance_for(first.bytes),
            shell,
        });
        self.index.insert(route, key);
        key
    }

    /// `count` datagrams of a backend have come.
    pub fn on_backend(&mut self, now: Tick, key: FlowKey, count: u32) -> After {
        let Some(flow) = self.flows.get_mut(key) else {
            return After::Keep;
        };
        flow.heard = now;
        flow.answered = now;
        flow.responses = flow.responses.saturating_add(count);
        match flow.rules.answers {
            Answers::Each(number) if flow.responses >= flow.requests.saturating_mul(number) => {
                After::Close
            }
            Answers::None | Answers::Any | Answers::Each(_) => After::Keep,
        }
    }

    /// When a flow is over if nothing more comes.
    pub fn due(&self, key: FlowKey) -> Option<Tick> {
        self.flows.get(key).map(Flow::due)
    }

    /// A deadline has come that was right when it was set: whether it still is.
    pub fn on_deadline(&self, now: Tick, key: FlowKey) -> After {
        match self.due(key) {
            Some(due) if due > now => After::Keep,
            _ => After::Close,
        }
    }

    /// Takes a flow out of the table.
    pub fn remove(&mut self, key: FlowKey) -> Option<Flow<T>> {
        let flow = self.flows.remove(key)?;
        if self.index.get(&flow.route) == Some(&key) {
            self.index.remove(&flow.route);
        }
        Some(flow)
    }

    /// A flow.
    pub fn get(&self, key: FlowKey) -> Option<&Flow<T>> {
        self.flows.get(key)
    }

    /// A flow, to change what the shell keeps with it.
    pub fn get_mut(&mut self, key: FlowKey) -> Option<&mut Flow<T>> {
        self.flows.get_mut(key)
    }

    /// Every flow.
    pub fn iter(&self) -> impl Iterator<Item = (FlowKey, &Flow<T>)> {
        self.flows.iter()
    }

    /// Flows in the table.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}

impl<T> Flow<T> {
    /// Who talks to what.
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// Whether the backend has answered since the flow began.
    pub const fn is_answered(&self) -> bool {
        self.responses > 0
    }

    /// Whether an answer of so many bytes may go to the client; if so, they are used up. It is asked
    /// of every answer, for as long as the flow lives: nothing here ever proves that a client's
    /// address is its own, and who sends blindly can send twice.
    pub const fn takes(&mut self, bytes: u64) -> bool {
        if self.rules.amplification == 0 {
            return true;
        }
        let left = self.allowance.checked_sub(bytes);
        if let Some(left) = left {
            self.allowance = left;
        }
        left.is_some()
    }

    /// Starts its time with another backend: what the one before did counts no more. What the client
    /// may still be answered does.
    pub fn restart(&mut self, now: Tick, rules: Rules) {
        self.rules = Rules {
            // Its allowance was counted by this limit, not by another.
            amplification: self.rules.amplification,
            ..rules
        };
        self.heard = now;
        self.answered = now;
        self.responses = 0;
    }

    fn due(&self) -> Tick {
        let idle = self.rules.idle;
        match self.rules.answers {
            Answers::None => self.heard.after(idle),
            Answers::Any | Answers::Each(_) if !self.is_answered() => {
                self.answered.after(idle.min(UNANSWERED))
            }
            Answers::Any | Answers::Each(_) => {
                self.heard.after(idle).min(self.answered.after(idle * 2))
            }
        }
    }
}

impl Rules {
    /// What may be answered to so many bytes.
    fn allowance_for(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.amplification.into())
    }
}

/// How long a flow lives that nobody has answered yet: a flood of spoofed sources leaves nothing
/// behind for longer.
pub const UNANSWERED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
