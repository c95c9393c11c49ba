//! One run: who is there, what they do, and what goes wrong meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use message_engin::broker::memory::MemoryBroker;
use message_engin::config::{BrokerSettings, Guarantee, SlowConsumer, SocketSettings};
use message_engin::gateway::{Gateway, KeySource};
use message_engin::message::Route;
use message_engin::worker::Worker;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::browser::{Manner, live};
use super::common;
use super::dice::Dice;
use super::faulty::{Faults, Faulty};
use super::ledger::{Ledger, LineLog};
use super::office::{Asker, Office, Watcher, send};
use super::story::{self, story};
use super::told::Told;
use super::verdict;

/// How large a run is.
#[derive(Debug)]
pub struct Scale {
    pub keys: u64,
    /// ms between messages, at the most.
    pub pause: u64,
    pub burst: u64,
    pub padding: u64,
    pub socket_bytes: usize,
    /// Some messages are for several keys.
    pub many: bool,
    /// Per mille of the batches that nobody looks at.
    pub unheard: u64,
    pub slow_consumer: SlowConsumer,
}

pub struct World {
    pub at_least_once: bool,
    pub ledger: Arc<Ledger>,
    pub faults: Arc<Faults>,
    pub scale: Scale,
    /// Nothing new is sent from then on.
    pub ends: Instant,
    /// All browsers leave.
    pub leaving: Told<bool>,
    settings: BrokerSettings,
    socket: SocketSettings,
    gateways: Mutex<Vec<(Gateway, Arc<LineLog>)>>,
    workers: Mutex<Vec<(Worker, Arc<LineLog>)>>,
}

fn faults(dice: &Dice) -> Faults {
    let some = |permille: u64| if dice.percent(40) { 1 + dice.below(permille) } else { 0 };
    Faults {
        on: AtomicBool::new(true),
        life: if dice.percent(70) { dice.range(10, 800) } else { 0 },
        refuse: some(60),
        hang: some(20),
        cut_publish: some(40),
        cut_receive: some(40),
        nack: some(40),
        unroutable: some(40),
        too_large: some(10),
        block: some(200),
        slow: some(30),
        unnoticed: some(100),
        window: dice.pick(&[1, 4, 16, 1024]),
    }
}

fn scale(dice: &Dice) -> Scale {
    Scale {
        keys: dice.range(1, 8).min(dice.range(1, 8)),
        pause: dice.pick(&[30, 60, 200]),
        burst: dice.pick(&[2, 10, 30]),
        padding: dice.pick(&[1, 20, 200]),
        socket_bytes: dice.pick(&[64, 1024, 65536]),
        many: dice.percent(30),
        unheard: dice.pick(&[0, 0, 20]),
        slow_consumer: dice.pick(&[SlowConsumer::Close, SlowConsumer::Close, SlowConsumer::Drop, SlowConsumer::Wait]),
    }
}

impl World {
    fn new(seed: u64, at_least_once: bool, dice: &Dice) -> Arc<World> {
        let faults = faults(dice);
        let scale = scale(dice);
        let guarantee = if at_least_once { Guarantee::AtLeastOnce } else { Guarantee::AtMostOnce };
        let settings = BrokerSettings {
            memory_name: format!("simulation-{seed}-{at_least_once}"),
            delivery: guarantee,
            connection_timeout: 200,
            reconnect_backoff_time: dice.range(1, 60),
            buffer_size: dice.pick(&[2 * 1024, 16 * 1024, 1 << 20]),
            prefetch: dice.pick(&[1, 2, 3, 8, 32, 256]),
            ..common::broker("memory:")
        };
        let socket = SocketSettings {
            max_backpressure: dice.pick(&[512, 4096, 1 << 20]),
            slow_consumer: scale.slow_consumer,
            keepalive: false,
            ..common::socket()
        };
        Arc::new(World {
            at_least_once,
            ledger: Arc::default(),
            faults: Arc::new(faults),
            ends: Instant::now() + Duration::from_millis(dice.range(50, 400)),
            scale,
            leaving: Told::new(false),
            settings,
            socket,
            gateways: Mutex::default(),
            workers: Mutex::default(),
        })
    }

    fn faulty(&self, line: &Arc<LineLog>, dice: &Dice) -> Faulty {
        Faulty {
            inner: MemoryBroker::named(&self.settings.memory_name),
            faults: self.faults.clone(),
            ledger: self.ledger.clone(),
            line: line.clone(),
            dice: dice.fork(),
            unnoticed: Arc::default(),
        }
    }

    fn watcher(line: &Arc<LineLog>) -> Arc<Watcher> {
        Arc::new(Watcher { line: line.clone(), drained: Notify::new(), lost: Mutex::new(false) })
    }

    async fn open_gateway(self: &Arc<Self>, dice: &Dice) {
        let line = self.ledger.line(true);
        let asker = Asker { world: self.clone(), id: line.id, dice: dice.fork() };
        let keys = KeySource::asked(Arc::new(asker));
        let unique = format!("g{}", line.id);
        let (settings, socket) = (self.settings.clone(), self.socket.clone());
        let broker = self.faulty(&line, dice);
        let gateway = Gateway::start_on(broker, settings, socket, &unique, World::watcher(&line), keys).await.unwrap();
        self.gateways.lock().unwrap().push((gateway, line));
    }

    async fn close_gateway(self: &Arc<Self>, drain: Duration) {
        let Some((gateway, line)) = ({
            let mut gateways = self.gateways.lock().unwrap();
            (!gateways.is_empty()).then(|| gateways.remove(0))
        }) else {
            return;
        };
        story!("gateway {} closes", line.id);
        self.ledger.shuffled.fetch_or(gateway.stats().connections > 1, Ordering::Relaxed);
        gateway.close(drain).await;
        story!("gateway {} has closed", line.id);
        line.log().ended = true;
        verdict::gateway(self, &gateway, &line);
    }

    /// Its sender is what comes back.
    async fn open_worker(self: &Arc<Self>, dice: &Dice, sends: bool) -> Option<JoinHandle<()>> {
        let line = self.ledger.line(false);
        let slot = Arc::new(OnceLock::new());
        let office = Office { world: self.clone(), id: line.id, dice: dice.fork(), worker: slot.clone() };
        let watcher = World::watcher(&line);
        let (settings, unique) = (self.settings.clone(), format!("w{}", line.id));
        let broker = self.faulty(&line, dice);
        let everything = [Route::Receive, Route::Status].into_iter().collect();
        let worker =
            Worker::start_on(broker, settings, &unique, everything, watcher.clone(), Arc::new(office)).await.unwrap();
        let _ = slot.set(worker.clone());
        self.workers.lock().unwrap().push((worker.clone(), line.clone()));
        sends.then(|| tokio::spawn(send(self.clone(), line, worker, watcher, dice.fork())))
    }

    async fn close_worker(self: &Arc<Self>, patience: Duration) {
        let Some((worker, line)) = ({
            let mut workers = self.workers.lock().unwrap();
            (!workers.is_empty()).then(|| workers.remove(0))
        }) else {
            return;
        };
        story!("worker {} closes", line.id);
        worker.stop_receiving();
        worker.close(patience).await;
        story!("worker {} has closed", line.id);
        line.log().ended = true;
        verdict::worker(self, &worker, &line);
    }

    /// One browser after the other, with one key.
    async fn browse(self: Arc<Self>, key: u32, dice: Dice) {
        let stays = dice.percent(60);
        let mut before: Vec<JoinHandle<bool>> = Vec::new();
        while !*self.leaving.look() {
            let chosen = {
                let gateways = self.gateways.lock().unwrap();
                let index = dice.below(gateways.len() as u64) as usize;
                gateways.get(index).map(|(gateway, line)| (line.id, gateway.clone()))
            };
            let ended = Instant::now() >= self.ends;
            if let Some((id, gateway)) = chosen
                && (stays || !ended)
            {
                let stuck = !stays && self.scale.slow_consumer != SlowConsumer::Wait && dice.percent(30);
                let manner = Manner {
                    stays: (!stays && !stuck).then(|| dice.range(1, 500)),
                    stalls: dice.pick(&[0, 0, 2]),
                    stuck,
                    pause: self.scale.pause,
                    burst: self.scale.burst,
                };
                let (world, dice) = (self.clone(), dice.fork());
                let living = tokio::spawn(async move { live(&world, (id, &gateway), key, &manner, &dice).await });
                if !stays && self.scale.keys.is_multiple_of(2) {
                    // The next one comes before this one has gone.
                    before.push(living);
                    sleep(Duration::from_millis(100)).await;
                } else {
                    living.await.unwrap();
                }
            }
            if ended && !stays {
                break;
            }
            sleep(Duration::from_millis(1) + dice.ms(50)).await;
        }
        for living in before {
            living.await.unwrap();
        }
    }

    /// Gateways and workers that come and go.
    async fn come_and_go(self: Arc<Self>, dice: Dice) {
        let mut tasks = Vec::new();
        while Instant::now() < self.ends {
            sleep(dice.ms(400)).await;
            match dice.below(4) {
                0 => {
                    self.open_gateway(&dice).await;
                    let (world, drain) = (self.clone(), dice.pick(&[Duration::ZERO, Duration::from_millis(100)]));
                    tasks.push(tokio::spawn(async move { world.close_gateway(drain).await }));
                }
                1 => {
                    tasks.extend(self.open_worker(&dice, true).await);
                    self.close_worker(dice.ms(500)).await;
                }
                2 => {
                    self.close_worker(dice.ms(500)).await;
                    sleep(dice.ms(200)).await;
                    tasks.extend(self.open_worker(&dice, true).await);
                }
                _ => (),
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    pub fn gateways(&self) -> Vec<(Gateway, Arc<LineLog>)> {
        self.gateways.lock().unwrap().clone()
    }

    pub fn workers(&self) -> Vec<(Worker, Arc<LineLog>)> {
        self.workers.lock().unwrap().clone()
    }
}

/// Waits until `check` finds nothing wrong any more.
async fn until(what: &str, check: impl Fn() -> Result<(), String>) {
    let settled = async {
        while check().is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(Duration::from_secs(120), settled).await.is_err() {
        let problem = check().err().unwrap_or_default();
        panic!("{what}: {problem}");
    }
}

/// Runs a seed to its end; what it answers, if it does, is the same every time.
pub async fn run(seed: u64, at_least_once: bool) -> Option<u64> {
    story::begin();
    let dice = Dice::new(seed);
    let world = World::new(seed, at_least_once, &dice);
    let World { settings, socket, scale, faults, .. } = &*world;
    story!("prefetch {}, buffer {}, backpressure {}", settings.prefetch, settings.buffer_size, socket.max_backpressure);
    story!("{scale:?}");
    story!("{faults:?}");
    let mut tasks = Vec::new();
    for _ in 0..dice.range(1, 3) {
        world.open_gateway(&dice).await;
    }
    for _ in 0..dice.range(1, 3) {
        tasks.extend(world.open_worker(&dice, true).await);
    }
    let mut browsers = Vec::new();
    for key in 0..world.scale.keys {
        browsers.push(tokio::spawn(world.clone().browse(key as u32, dice.fork())));
    }
    if dice.percent(50) {
        tasks.push(tokio::spawn(world.clone().come_and_go(dice.fork())));
    }
    tokio::time::sleep_until(world.ends).await;
    world.faults.on.store(false, Ordering::Relaxed);
    story!("no more faults");
    for task in tasks {
        task.await.unwrap();
    }
    // Whatever was held by somebody who is gone comes to this one.
    world.open_worker(&dice, false).await;

    until("messages", || verdict::messages(&world)).await;
    world.leaving.change(|leaving| *leaving = true);
    for browser in browsers {
        browser.await.unwrap();
    }
    until("the end", || verdict::departed(&world)).await;
    while !world.gateways().is_empty() {
        world.close_gateway(Duration::ZERO).await;
    }
    while !world.workers().is_empty() {
        world.close_worker(Duration::from_secs(1)).await;
    }
    verdict::order(&world);
    world.ledger.digest()
}
