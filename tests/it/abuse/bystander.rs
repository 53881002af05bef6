//! A well-behaved client on a thread of its own, so that what it measures is the daemon and not the
//! attacker's runtime: it asks for the daemon's health all the time, watches its memory, and
//! applies and rolls back beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use schemad::pb::{self, migration_service_client::MigrationServiceClient};
use tokio::{runtime::Builder, sync::oneshot, time::timeout};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{daemon::collect, eventually};

/// Between two questions: often enough for a p99 of a few seconds.
const EVERY: Duration = Duration::from_millis(5);

/// Nobody waits longer for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const OPERATION_WITHIN: Duration = Duration::from_secs(20);

/// What it noticed.
#[derive(Default)]
pub struct Noticed {
    pub latencies: Vec<Duration>,
    pub checks_failed: usize,
    /// At its highest.
    pub memory_kb: u64,
    pub applies: usize,
    pub applies_failed: usize,
    pub reasons: Vec<String>,
}

impl Noticed {
    /// The latency within which this part of the checks was answered.
    pub fn latency(&self, part: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get(((last as f64) * part).ceil() as usize)
            .copied()
            .unwrap_or(Duration::MAX)
    }
}

/// Asks until it is stopped.
pub struct Bystander {
    end: Arc<AtomicBool>,
    noticed: oneshot::Receiver<Noticed>,
}

impl Bystander {
    /// Begins once the daemon is ready for operations.
    pub async fn start(address: &str, pid: u32) -> Self {
        let uri = format!("http://{address}");
        let end = Arc::new(AtomicBool::new(false));
        let (sender, noticed) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let ended = end.clone();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let _ = sender.send(runtime.block_on(watch(uri, pid, ended, ready)));
        });
        is_ready.await.expect("the daemon is not ready");
        Self { end, noticed }
    }

    pub async fn stop(self) -> Noticed {
        self.end.store(true, Ordering::Relaxed);
        self.noticed.await.expect("the bystander's thread")
    }
}

async fn watch(uri: String, pid: u32, end: Arc<AtomicBool>, ready: oneshot::Sender<()>) -> Noticed {
    let channel = || Channel::from_shared(uri.clone()).unwrap().connect_lazy();
    let mut health = HealthClient::new(channel());
    let readiness = HealthCheckRequest {
        service: "schemad.v1.MigrationService".into(),
    };
    eventually("it is ready", async || {
        health
            .check(readiness.clone())
            .await
            .is_ok_and(|answer| answer.into_inner().status == 1)
            .then_some(())
    })
    .await;
    let _ = ready.send(());
    let (checks, operations) = tokio::join!(checks(health, pid, &end), operations(channel(), &end));
    let reasons = checks
        .reasons
        .into_iter()
        .chain(operations.reasons)
        .take(5)
        .collect();
    Noticed {
        reasons,
        applies: operations.applies,
        applies_failed: operations.applies_failed,
        ..checks
    }
}

async fn checks(mut health: HealthClient<Channel>, pid: u32, end: &AtomicBool) -> Noticed {
    let mut noticed = Noticed::default();
    while !end.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = timeout(
            ANSWER_WITHIN,
            health.check(HealthCheckRequest {
                service: String::new(),
            }),
        )
        .await;
        noticed.latencies.push(begun.elapsed());
        let failed = match answer {
            Ok(Ok(_)) => None,
            Ok(Err(status)) => Some(format!("health: {status}")),
            Err(_) => Some("health: no answer".into()),
        };
        noticed.checks_failed += usize::from(failed.is_some());
        noticed
            .reasons
            .extend(failed.filter(|_| noticed.checks_failed < 3));
        noticed.memory_kb = noticed.memory_kb.max(memory_kb(pid));
        tokio::time::sleep(EVERY).await;
    }
    noticed
}

/// At least one, also when the attack is over sooner.
async fn operations(channel: Channel, end: &AtomicBool) -> Noticed {
    let mut client = MigrationServiceClient::new(channel);
    let mut noticed = Noticed::default();
    while noticed.applies + noticed.applies_failed == 0 || !end.load(Ordering::Relaxed) {
        let outcome = timeout(OPERATION_WITHIN, async {
            let applied = client.apply(pb::ApplyRequest::default()).await;
            collect(applied, |response: pb::ApplyResponse| response.event)
                .await
                .status?;
            let all = Some(pb::rollback_request::Target::All(true));
            let undone = client
                .rollback(pb::RollbackRequest {
                    target: all,
                    ..Default::default()
                })
                .await;
            collect(undone, |response: pb::RollbackResponse| response.event)
                .await
                .status
        });
        match outcome.await {
            Ok(Ok(())) => noticed.applies += 1,
            Ok(Err(status)) => {
                noticed.applies_failed += 1;
                noticed.reasons.push(format!("apply: {status}"));
            }
            Err(_) => {
                noticed.applies_failed += 1;
                noticed.reasons.push("apply: no end".into());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    noticed
}

/// VmRSS; 0 when the process is gone, and then the checks fail.
fn memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
