//! Every order of events in the handing over of slots, by two workers that share a queue: what they do
//! is cut into steps that no other worker can see the inside of, and all orders of those are tried.

use std::collections::{HashSet, VecDeque};

use super::{Limits, Queue, Standing, Ticket, Turn};
use crate::lb::time::Tick;

/// What a worker does next. A turn of a worker is a few of these, the last of which is to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// A newcomer looks whether somebody waits.
    Look(Client),
    /// It saw nobody, and tries to reserve a slot.
    Reserve(Client),
    /// It joins the queue.
    Join(Client),
    /// At the end of a turn: whoever waits is called while there are slots.
    Serve,
    /// Somebody that was called is connected, or has gone meanwhile, and its slot is free again.
    Called(Client),
    /// A session ends.
    Free(Client),
    /// A client goes away wherever it is.
    Leave(Client),
}

type Client = u8;

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Outside,
    Waiting(Ticket),
    /// A slot is on its way to it.
    Promised,
    /// The same, and it has gone.
    Abandoned,
    Open,
    Over,
}

/// All that two workers share, and what each has yet to do.
#[derive(Clone, Debug)]
struct World {
    queue: Queue<Client>,
    /// What a worker reads without the lock.
    length: usize,
    open: usize,
    slots: usize,
    clients: Vec<State>,
    /// In which order clients joined, and were called.
    joined: Vec<Client>,
    called: Vec<Client>,
    workers: [VecDeque<Step>; 2],
}

impl World {
    fn new(slots: usize, clients: usize) -> Self {
        let mut workers = [const { VecDeque::new() }; 2];
        for client in 0..clients {
            let number = Client::try_from(client).unwrap();
            workers[client % 2].extend([Step::Look(number), Step::Serve]);
        }
        Self {
            queue: Queue::default(),
            length: 0,
            open: 0,
            slots,
            clients: vec![State::Outside; clients],
            joined: Vec::new(),
            called: Vec::new(),
            workers,
        }
    }

    fn home(client: Client) -> usize {
        usize::from(client) % 2
    }

    fn reserve(&mut self) -> bool {
        let is_free = self.open < self.slots;
        self.open += usize::from(is_free);
        is_free
    }

    /// Takes the next step of a worker.
    fn step(&mut self, worker: usize) {
        let step = self.workers[worker].pop_front().expect("a step is left");
        match step {
            Step::Look(client) => {
                let next = if self.length > 0 {
                    Step::Join(client)
                } else {
                    Step::Reserve(client)
                };
                self.workers[worker].push_front(next);
            }
            Step::Reserve(client) => {
                if self.reserve() {
                    self.connect(client);
                } else {
                    self.workers[worker].push_front(Step::Join(client));
                }
            }
            Step::Join(client) => {
                // Time stands still, as it does within a millisecond.
                let ticket = self
                    .queue
                    .join(client, None, Standing::New(Tick::ZERO), NO_LIMITS)
                    .unwrap();
                self.length = self.queue.len();
                self.clients[usize::from(client)] = State::Waiting(ticket);
                self.joined.push(client);
            }
            Step::Serve => self.serve(),
            Step::Called(client) => match self.clients[usize::from(client)] {
                State::Promised => self.connect(client),
                State::Abandoned => {
                    self.open -= 1;
                    self.clients[usize::from(client)] = State::Over;
                }
                other => panic!("called while {other:?}"),
            },
            Step::Free(client) => {
                assert_eq!(self.clients[usize::from(client)], State::Open);
                self.clients[usize::from(client)] = State::Over;
                self.open -= 1;
            }
            Step::Leave(client) => self.leave(client),
        }
        assert!(self.open <= self.slots, "a slot was given twice");
    }

    fn serve(&mut self) {
        if self.length == 0 {
            return;
        }
        let (open, slots) = (&mut self.open, self.slots);
        let called = self.queue.serve(usize::MAX, |_| {
            if *open == slots {
                return Turn::Wait;
            }
            *open += 1;
            Turn::Over(())
        });
        self.length = self.queue.len();
        for (client, ()) in called {
            self.called.push(client);
            self.clients[usize::from(client)] = State::Promised;
            // A message, after which that worker ends its turn.
            self.workers[Self::home(client)].extend([Step::Called(client), Step::Serve]);
        }
    }

    /// Its session ends in a later turn of its worker.
    fn connect(&mut self, client: Client) {
        self.clients[usize::from(client)] = State::Open;
        self.workers[Self::home(client)].extend([Step::Free(client), Step::Serve]);
    }

    fn leave(&mut self, client: Client) {
        let state = &mut self.clients[usize::from(client)];
        match *state {
            State::Waiting(ticket) => {
                self.queue.leave(ticket).expect("it waits");
                self.length = self.queue.len();
                self.joined.retain(|&other| other != client);
                *state = State::Over;
            }
            State::Promised => *state = State::Abandoned,
            // It is somewhere else already.
            State::Outside | State::Open | State::Over | State::Abandoned => {}
        }
    }

    /// Nothing is left to do.
    fn check_end(&self) {
        assert!(self.queue.is_empty(), "{self:?} waits for ever");
        assert_eq!(self.open, 0, "a slot is lost");
        assert!(self.clients.iter().all(|&state| state == State::Over));
        assert_eq!(self.joined, self.called, "somebody was passed");
    }

    /// What tells two worlds apart from here on.
    fn key(&self) -> impl Eq + std::hash::Hash + use<> {
        let waiting: Vec<_> = self
            .queue
            .waiters
            .values()
            .map(|waiter| waiter.item)
            .collect();
        let states: Vec<_> = self.clients.iter().map(std::mem::discriminant).collect();
        let history = (self.joined.clone(), self.called.clone());
        (
            waiting,
            states,
            self.length,
            self.open,
            history,
            self.workers.clone(),
        )
    }
}

/// Tries every order; how many different worlds there were.
fn explore(start: World) -> usize {
    let mut seen = HashSet::new();
    let mut left = vec![start];
    while let Some(world) = left.pop() {
        if !seen.insert(world.key()) {
            continue;
        }
        let busy = (0..2).filter(|&worker| !world.workers[worker].is_empty());
        let before = left.len();
        for worker in busy {
            let mut next = world.clone();
            next.step(worker);
            left.push(next);
        }
        if left.len() == before {
            world.check_end();
        }
    }
    seen.len()
}

const NO_LIMITS: Limits = Limits {
    all: u32::MAX,
    per_source: 0,
    is_fair: false,
};

#[test]
fn every_order_of_events_serves_everybody_in_turn() {
    for (slots, clients) in [(1, 2), (1, 4), (2, 4), (2, 5), (3, 5)] {
        let worlds = explore(World::new(slots, clients));
        assert!(
            worlds > 20,
            "{worlds} worlds with {slots} slots, {clients} clients"
        );
    }
}

#[test]
fn every_order_of_events_survives_a_client_that_goes_away() {
    for (slots, clients) in [(1, 3), (1, 4), (2, 4)] {
        for gone in 0..Client::try_from(clients).unwrap() {
            // At any moment after its worker has seen it.
            for place in 1..8 {
                let mut world = World::new(slots, clients);
                let steps = &mut world.workers[World::home(gone)];
                let arrival = steps
                    .iter()
                    .position(|&step| step == Step::Look(gone))
                    .unwrap();
                let place = (arrival + 2 + place).min(steps.len());
                steps.insert(place, Step::Leave(gone));
                steps.insert(place + 1, Step::Serve);
                explore(world);
            }
        }
    }
}

/// What the last step of a turn is for: without it somebody waits for ever in some order.
#[test]
#[should_panic(expected = "waits for ever")]
fn who_joins_without_serving_may_wait_for_ever() {
    let mut world = World::new(1, 2);
    for steps in &mut world.workers {
        steps.retain(|step| *step != Step::Serve);
    }
    explore(world);
}
