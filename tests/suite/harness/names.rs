//! A name server that says what a case wants.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Truthful,
    /// It has failed, and says so.
    Failing,
    Silent,
}

#[derive(Debug)]
struct State {
    records: HashMap<(String, RecordType), Vec<Record>>,
    mood: Mood,
    asked: HashMap<String, u64>,
}

#[derive(Debug)]
pub struct Names {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Names {
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let state = State {
            records: HashMap::new(),
            mood: Mood::Truthful,
            asked: HashMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let shared = Arc::downgrade(&state);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Some(state) = shared.upgrade() {
                let Ok((length, from)) = socket.recv_from(&mut bytes) else {
                    continue;
                };
                if let Some(answer) = state.lock().unwrap().answer(&bytes[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { address, state }
    }

    pub fn mood(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// These are all addresses of a host.
    pub fn host(&self, host: &str, ttl: u32, addresses: &[Ipv4Addr]) {
        let data = addresses.iter().map(|&address| RData::A(A(address)));
        self.set(host, RecordType::A, ttl, data);
    }

    /// These are all servers of a service: priority, weight, port and host.
    pub fn service(&self, name: &str, ttl: u32, servers: &[(u16, u16, u16, &str)]) {
        let data = servers.iter().map(|&(priority, weight, port, host)| {
            RData::SRV(SRV::new(priority, weight, port, full(host)))
        });
        self.set(name, RecordType::SRV, ttl, data);
    }

    /// How often somebody has asked for this name.
    pub fn asked(&self, name: &str) -> u64 {
        let state = self.state.lock().unwrap();
        state
            .asked
            .get(&full(name).to_ascii())
            .copied()
            .unwrap_or(0)
    }

    fn set(&self, name: &str, kind: RecordType, ttl: u32, data: impl Iterator<Item = RData>) {
        let name = full(name);
        let records = data.map(|data| Record::from_rdata(name.clone(), ttl, data));
        let records = records.collect();
        let mut state = self.state.lock().unwrap();
        state.records.insert((name.to_ascii(), kind), records);
    }
}

impl State {
    fn answer(&mut self, question: &[u8]) -> Option<Vec<u8>> {
        let mut message = Message::from_vec(question).unwrap();
        let query = message.queries.first().unwrap().clone();
        let name = query.name().to_ascii().to_ascii_lowercase();
        *self.asked.entry(name.clone()).or_default() += 1;
        message.metadata.message_type = MessageType::Response;
        message.metadata.recursion_available = true;
        match self.mood {
            Mood::Silent => return None,
            Mood::Failing => message.metadata.response_code = ResponseCode::ServFail,
            Mood::Truthful => {
                let found = self.records.get(&(name, query.query_type()));
                message.add_answers(found.into_iter().flatten().cloned());
            }
        }
        Some(message.to_vec().unwrap())
    }
}

fn full(name: &str) -> Name {
    Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).unwrap()
}
