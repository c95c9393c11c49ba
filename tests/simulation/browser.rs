//! A browser on one connection: the least of a WebSocket client, so that a run costs little and masks are not random.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use message_engin::gateway::{AcceptedUpgrade, Gateway};
use message_engin::message::{Headers, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dice::Dice;
use super::label::Label;
use super::ledger::Conn;
use super::scenario::World;
use super::story::story;

/// How one connection goes.
pub struct Manner {
    /// ms until it leaves; none: when all leave.
    pub stays: Option<u64>,
    /// Per cent of the frames after which it does not read for a while.
    pub stalls: u64,
    /// It stops reading for good.
    pub stuck: bool,
    /// ms between its messages, at the most.
    pub pause: u64,
    pub burst: u64,
}

/// Lives until it is closed or leaves. False when it was not let in.
pub async fn live(world: &Arc<World>, gateway: (u32, &Gateway), key: u32, manner: &Manner, dice: &Dice) -> bool {
    let (ours, theirs) = duplex(world.scale.socket_bytes);
    let (mut reader, mut writer) = split(ours);
    let id = {
        let mut conns = world.ledger.conns.lock().unwrap();
        conns.push(Conn {
            key,
            gateway: gateway.0,
            wrote: 0,
            began: 0,
            got: Vec::new(),
            since: 0,
            open: false,
            quiet: false,
            stuck: manner.stuck,
        });
        conns.len() as u32 - 1
    };
    gateway.1.accept(
        theirs,
        AcceptedUpgrade {
            key: name(key).into(),
            key_json: Label::key_json(id, key).into(),
            headers: Headers(vec![("x-conn".into(), Value::Int(id.into()))]),
            response: b"hello".to_vec(),
            head: Vec::new(),
        },
    );
    let mut response = [0; 5];
    if reader.read_exact(&mut response).await.is_err() || &response != b"hello" {
        return false;
    }
    let sent = world.ledger.sent.lock().unwrap().len();
    world.ledger.conn(id, |conn| (conn.open, conn.since) = (true, sent));
    story!("connection {id} of key {key} is open at gateway {}", gateway.0);
    let graceful = dice.percent(50);
    {
        let reading = read(world, id, &mut reader, manner, dice);
        tokio::pin!(reading);
        let left = tokio::select! {
            biased;
            () = &mut reading => false,
            () = write(world, id, &mut writer, manner, dice) => true,
        };
        world.ledger.conn(id, |conn| conn.open = false);
        story!("connection {id} ends, by itself: {left}");
        if graceful {
            let _ = timeout(Duration::from_millis(300), writer.write_all(&frame(0x88, &1000_u16.to_be_bytes()))).await;
        }
        if left && graceful {
            let _ = timeout(Duration::from_secs(1), reading).await;
        }
    }
    true
}

pub fn name(key: u32) -> String {
    format!("k{key}")
}

/// A client's frame; the mask is zero, which leaves the payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match payload.len() {
        short @ 0..126 => vec![first, 0x80 | short as u8],
        long => [&[first, 0x80 | 126], &(long as u16).to_be_bytes()[..]].concat(),
    };
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

async fn write(world: &World, id: u32, writer: &mut WriteHalf<DuplexStream>, manner: &Manner, dice: &Dice) {
    let leaves = manner.stays.map(|stays| Instant::now() + Duration::from_millis(stays));
    let until = leaves.map_or(world.ends, |leaves| leaves.min(world.ends));
    let mut left = pin!(async {
        match leaves {
            Some(leaves) => sleep_until(leaves).await,
            None => world.leaving.wait_for(|leaving| *leaving).await,
        }
    });
    let mut n = 0;
    loop {
        sleep(dice.ms(manner.pause)).await;
        if Instant::now() >= until {
            break;
        }
        let count = if dice.percent(80) { 1 } else { dice.range(1, manner.burst) as u32 };
        let mut bytes = Vec::new();
        for _ in 0..count {
            let padding = dice.below(world.scale.padding) as usize;
            bytes.extend(frame(0x81, Label::Up { conn: id, n }.body(padding).as_bytes()));
            n += 1;
        }
        world.ledger.conn(id, |conn| conn.began = n);
        let write = async { writer.write_all(&bytes).await.is_ok() };
        tokio::select! {
            biased;
            wrote = write => if wrote {
                world.ledger.conn(id, |conn| conn.wrote = n);
            } else {
                // Whoever reads sees the end, and what came before it.
                return left.await;
            },
            () = &mut left => return,
        }
    }
    world.ledger.conn(id, |conn| conn.quiet = true);
    left.await;
}

/// Ends with the connection.
async fn read(world: &World, id: u32, reader: &mut ReadHalf<DuplexStream>, manner: &Manner, dice: &Dice) {
    let mut count = 0;
    loop {
        let Ok(first) = reader.read_u8().await else { return };
        let Ok(short) = reader.read_u8().await else { return };
        let length = match short {
            126 => reader.read_u16().await.map(usize::from),
            short => Ok(usize::from(short)),
        };
        let Ok(length) = length else { return };
        let mut payload = vec![0; length];
        if reader.read_exact(&mut payload).await.is_err() || first == 0x88 {
            return;
        }
        story!("connection {id} gets {:?}", Label::of(&payload));
        world.ledger.conn(id, |conn| conn.got.push(Label::of(&payload)));
        count += 1;
        if manner.stuck && count > 2 {
            pending::<()>().await;
        }
        if world.faults.are_on() && dice.percent(manner.stalls) {
            sleep(dice.ms(300)).await;
        }
    }
}
