//! Watches that the proxy holds back, and cuts.

use crate::proxy::Fault;
use axum::body::{Body, Bytes};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// What happens to watches, those included that are open already.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Treatment {
    /// Every watch is cut after some events or some seconds.
    pub cut: bool,
    /// The part of all watches, from 0 to 1, whose events come late.
    pub lag: f64,
}

/// What becomes of one watch under which treatment; follows from its seed alone.
#[derive(Clone, Copy, Debug)]
struct Lot {
    seed: u64,
    /// It is cut at this event, counted from when watches began to be cut …
    events: u64,
    /// … or after this time, whichever comes first.
    lasts: Duration,
    /// Those lag whose share is below [`Treatment::lag`].
    share: f64,
}

impl Lot {
    fn draw(seed: u64) -> Self {
        Self {
            seed,
            events: 1 + mixed(seed, 1) % 12,
            lasts: Duration::from_millis(4_000 + mixed(seed, 2) % 12_000),
            share: f64::from(u32::try_from(mixed(seed, 3) >> 32).unwrap()) / f64::from(u32::MAX),
        }
    }

    /// How long the n-th event is held back.
    fn lag(&self, nth: u64) -> Duration {
        Duration::from_millis(200 + mixed(self.seed, 100 + nth) % 4_800)
    }

    fn end(&self) -> Fault {
        [Fault::WatchCut, Fault::WatchEnded, Fault::WatchExpired][usize::try_from(mixed(self.seed, 4) % 3).unwrap()]
    }
}

/// The finalizer of SplitMix64: numbers that have nothing to do with each other, from one.
fn mixed(seed: u64, nth: u64) -> u64 {
    let mut z = seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An event on its way.
struct Held {
    due: Instant,
    event: Bytes,
    late: bool,
}

/// Carries the events of a watch as long as nobody cuts it, in their order. `happened` hears of each fault, `arrives` of
/// each event right before it is handed on.
pub fn treated(
    body: Body,
    seed: u64,
    treatment: watch::Receiver<Treatment>,
    happened: impl Fn(Fault) + Send + 'static,
    arrives: impl Fn(&[u8]) + Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(carry(body, Lot::draw(seed), treatment, sender, happened, arrives));
    Body::from_stream(stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }))
}

async fn carry(
    body: Body,
    lot: Lot,
    mut treatment: watch::Receiver<Treatment>,
    sender: mpsc::Sender<Result<Bytes, Error>>,
    happened: impl Fn(Fault),
    arrives: impl Fn(&[u8]),
) {
    let mut chunks = body.into_data_stream();
    let mut rest = Vec::new();
    let mut held: VecDeque<Held> = VecDeque::new();
    let (mut come, mut gone, mut open) = (0, 0, true);
    let mut cut_off: Option<Instant> = treatment.borrow().cut.then(|| Instant::now() + lot.lasts);
    while open || !held.is_empty() {
        let now = Instant::now();
        let due = held.front().map(|held| held.due);
        tokio::select! {
            chunk = chunks.next(), if open => match chunk {
                Some(Ok(chunk)) => {
                    rest.extend_from_slice(&chunk);
                    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        come += 1;
                        let late = lot.share < treatment.borrow().lag;
                        let due = if late { now + lot.lag(come) } else { now };
                        // Nothing overtakes.
                        let due = held.back().map_or(due, |before| due.max(before.due));
                        held.push_back(Held { due, event: rest.drain(..=end).collect::<Vec<u8>>().into(), late });
                    }
                }
                Some(Err(error)) => {
                    let _ = sender.send(Err(Error::other(error))).await;
                    return;
                }
                None => open = false,
            },
            () = sleep_until(due.unwrap_or(now)), if due.is_some() => {
                let Some(Held { event, late, .. }) = held.pop_front() else { return };
                if late {
                    happened(Fault::WatchLags);
                }
                gone += u64::from(cut_off.is_some());
                if gone >= lot.events {
                    return cut(&lot, Some(&event), &sender, happened).await;
                }
                arrives(&event);
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            () = sleep_until(cut_off.unwrap_or(now)), if cut_off.is_some() => {
                return cut(&lot, None, &sender, happened).await;
            }
            changed = treatment.changed() => {
                if changed.is_err() {
                    return;
                }
                let cuts = treatment.borrow_and_update().cut;
                cut_off = cuts.then(|| cut_off.unwrap_or(now + lot.lasts));
            }
            () = sender.closed() => return,
        }
    }
}

/// The last that comes of a watch: half an event and a broken connection, an end in order, or the word of the server that it
/// has forgotten what happened since.
async fn cut(lot: &Lot, event: Option<&Bytes>, sender: &mpsc::Sender<Result<Bytes, Error>>, happened: impl Fn(Fault)) {
    let fault = lot.end();
    happened(fault);
    let last: Vec<Result<Bytes, Error>> = match fault {
        Fault::WatchExpired => {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired",
                                 "code": 410, "message": "too old resource version (a fault that the proxy made up)" });
            vec![Ok(format!("{}\n", json!({ "type": "ERROR", "object": status })).into())]
        }
        Fault::WatchEnded => vec![],
        _ => {
            let half = event.map(|event| Ok(event.slice(..event.len() / 2)));
            half.into_iter().chain([Err(Error::new(ErrorKind::ConnectionReset, "cut by the proxy"))]).collect()
        }
    };
    for part in last {
        let _ = sender.send(part).await;
    }
}

/// The object of an event, by uid, and its resource version.
pub fn version(event: &[u8]) -> Option<(String, u64)> {
    let event: Value = serde_json::from_slice(event).ok()?;
    let object = event.get("object").unwrap_or(&event);
    let metadata = object.get("metadata")?;
    let version = metadata.get("resourceVersion")?.as_str()?.parse().ok()?;
    Some((metadata.get("uid")?.as_str()?.to_owned(), version))
}
