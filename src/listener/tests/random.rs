//! Mutated requests: whatever the bytes, no panic, no buffer kept, and the same verdict however the
//! stream is cut.
//!
//! Each run draws a seed and prints it. `TIDEGATE_FUZZ_SEED` replays one, `TIDEGATE_FUZZ_ROUNDS`
//! sets how long to go on (default: about two seconds).

use crate::listener::tests::bad::{limits, table};
use crate::listener::tests::twin::{Stage, statuses};

const ROUNDS: u64 = 8_000;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a fuzzer runs is no setting of the server")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn corpus() -> Vec<Vec<u8>> {
    let short = table().into_iter().map(|(_, bytes, _)| bytes).filter(|bytes| bytes.len() < 600);
    let good = "POST /api/v1/write HTTP/1.1\r\nHost: a\r\nTHANOS-TENANT: t\r\nUser-Agent: p\r\n";
    let length = format!("{good}Content-Length: 5\r\n\r\nhello");
    let chunked = format!(
        "{good}Transfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n"
    );
    let expect = format!("{good}Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab");
    let mut corpus: Vec<Vec<u8>> = short.collect();
    for _ in 0..20 {
        corpus.extend([length.clone().into(), chunked.clone().into(), expect.clone().into()]);
    }
    corpus
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    const SPICE: [&[u8]; 12] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"0",
        b";",
        b"\0",
        b"\r\n\r\n",
        b"chunked",
        b"\xff",
        b",",
    ];
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.remove(at)),
            3 => {
                let spice = SPICE[random.below(SPICE.len())];
                bytes.splice(at..at, spice.iter().copied());
            }
            4 => {
                let end = (at + random.below(30)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())];
                bytes.truncate(at.max(1));
                bytes.extend(&other[random.below(other.len())..]);
            }
        }
    }
}

/// Statuses, whether the server closed, and the bodies it took.
fn outcome(bytes: &[u8], cuts: &[usize]) -> (Vec<u16>, bool, Vec<String>) {
    let stage = Stage::with(limits());
    let mut client = stage.connect();
    let mut from = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        client.send(&bytes[from..cut]);
        from = cut;
    }
    // Interim answers depend on the cuts: a body that is there is not asked for.
    let mut got = statuses(&client.receive());
    got.retain(|&status| status != 100);
    let closed = client.peer.is_closed();
    client.end().expect("a connection ends with its peer");
    assert_eq!(stage.listener.probe().panics.value(), 0);
    assert_eq!((stage.notes.under_way.get(), stage.listener.buffer_bytes().0), (0, 0));
    let seen = stage.notes.seen.borrow().clone();
    (got, closed, seen)
}

#[test]
fn mutated_requests_are_judged_alike_however_they_are_cut() {
    let seed = setting("TIDEGATE_FUZZ_SEED").unwrap_or_else(|| getrandom::u64().expect("a seed"));
    println!("TIDEGATE_FUZZ_SEED={seed}");
    let mut random = Random(seed | 1);
    let corpus = corpus();
    let (mut taken, mut refused) = (0, 0);
    for round in 0..setting("TIDEGATE_FUZZ_ROUNDS").unwrap_or(ROUNDS) {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        bytes.extend_from_slice(&corpus[random.below(corpus.len())]);
        mutate(&mut bytes, &corpus, &mut random);
        let mut cuts: Vec<usize> =
            (0..random.below(8)).map(|_| random.below(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = outcome(&bytes, &[]);
        let text = bytes.escape_ascii();
        assert_eq!(
            outcome(&bytes, &cuts),
            whole,
            "seed {seed} round {round} cuts {cuts:?}: {text}"
        );
        taken += whole.2.len();
        refused += usize::from(whole.1);
    }
    // The mutations must leave both kinds alive, else this proves nothing.
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}
