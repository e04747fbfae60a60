//! Streams of bytes that follow from a seed, so that each byte is known by its place.

/// SplitMix64, the suite's own: the same name and sequence for every case.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(bound)) >> 64).expect("below a u64")
    }

    /// A size in `0..bound`.
    pub fn size(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below a usize")
    }
}

/// An endless stream of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Payload(u64);

impl Payload {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Writes the bytes from `position` on into `buffer`.
    pub fn fill(self, position: u64, buffer: &mut [u8]) {
        let mut filled = 0;
        let mut at = position;
        while filled < buffer.len() {
            let word = self.word(at / 8);
            let from = usize::try_from(at % 8).expect("below 8");
            let count = (8 - from).min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&word[from..from + count]);
            filled += count;
            at += count as u64;
        }
    }

    /// `count` bytes from the start.
    pub fn bytes(self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Fails unless `bytes` are those from `position` on.
    #[track_caller]
    pub fn check(self, position: u64, bytes: &[u8]) {
        let mut expected = vec![0; bytes.len()];
        self.fill(position, &mut expected);
        if let Some(wrong) = expected.iter().zip(bytes).position(|(a, b)| a != b) {
            panic!("byte {} is not what was sent", position + wrong as u64);
        }
    }

    fn word(self, index: u64) -> [u8; 8] {
        mix(self.0.wrapping_add(index.wrapping_mul(GAMMA))).to_le_bytes()
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn any_part_of_a_payload_is_the_same_bytes() {
    let payload = Payload::new(7);
    let whole = payload.bytes(100);
    for from in 0..100 {
        let mut part = vec![0; 100 - from];
        payload.fill(from as u64, &mut part);
        assert_eq!(part, whole[from..]);
        payload.check(from as u64, &part);
    }
    let mut wrong = whole;
    wrong[50] ^= 1;
    assert!(std::panic::catch_unwind(|| payload.check(0, &wrong)).is_err());
}
