//! A whole daemon in the test's process.

use std::{sync::Arc, time::Duration};

use schemad::{
    Daemon, PoolSettings, Retention, Settings,
    pb::{
        self, OperationEvent, migration_service_client::MigrationServiceClient,
        operation_event::Event, operation_service_client::OperationServiceClient,
    },
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tonic::{Code, Response, Status, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use super::{Set, TestDatabase, eventually};

pub struct TestDaemon {
    pub address: String,
    pub admin: String,
    end: Arc<Notify>,
    task: JoinHandle<()>,
}

/// How an operation ended, with its events.
pub struct Outcome {
    pub events: Vec<OperationEvent>,
    pub status: Result<(), Status>,
}

pub fn settings(url: &str) -> Settings {
    Settings {
        database: url.parse().unwrap(),
        role: None,
        signing: None,
        require_rehearsed: false,
        migration_database: None,
        pool: PoolSettings {
            size: 1,
            overflow: 4,
            timeout: Duration::from_secs(5),
            ping_after: Duration::from_secs(30),
        },
        shutdown_grace: Duration::from_secs(25),
        apply_on_start: false,
        // Fixtures are as old as they are.
        retention: Retention {
            operations: Duration::from_secs(50 * 31_536_000),
            refusals: Duration::from_secs(86_400),
        },
        reflection: true,
        tls: None,
        access: None,
        limits: schemad::Limits::default(),
        insecure: false,
        leases: None,
    }
}

impl TestDaemon {
    /// On the database, ready for operations.
    pub async fn start(database: &TestDatabase, set: &Set) -> Self {
        let daemon = Self::launch(settings(&database.url), set).await;
        daemon.until_ready().await;
        daemon
    }

    /// With any settings, ready or not.
    pub async fn launch(settings: Settings, set: &Set) -> Self {
        let daemon = Daemon::builder()
            .migrations(set.source())
            .build(settings)
            .unwrap();
        let main = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, admin_address) = (
            main.local_addr().unwrap().to_string(),
            admin.local_addr().unwrap().to_string(),
        );
        let end = Arc::new(Notify::new());
        let signal = end.clone();
        let task =
            tokio::spawn(
                async move { daemon.serve(main, admin, signal.notified()).await.unwrap() },
            );
        Self {
            address,
            admin: admin_address,
            end,
            task,
        }
    }

    /// What SIGTERM does.
    pub fn terminate(&self) {
        self.end.notify_one();
    }

    /// Ends it and waits for its end.
    pub async fn stop(self) {
        self.terminate();
        self.task.await.unwrap();
    }

    pub fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect_lazy()
    }

    pub fn client(&self) -> MigrationServiceClient<Channel> {
        MigrationServiceClient::new(self.channel())
    }

    pub fn operations(&self) -> OperationServiceClient<Channel> {
        OperationServiceClient::new(self.channel())
    }

    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel())
    }

    pub async fn check(&self, service: &str) -> Result<ServingStatus, Code> {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        self.health()
            .check(request)
            .await
            .map(|r| r.into_inner().status())
            .map_err(|s| s.code())
    }

    pub async fn until(&self, service: &str, status: ServingStatus) {
        eventually(&format!("{service} {status:?}"), async || {
            (self.check(service).await == Ok(status)).then_some(())
        })
        .await;
    }

    pub async fn until_ready(&self) {
        self.until("schemad.v1.MigrationService", ServingStatus::Serving)
            .await;
    }

    pub async fn status(&self) -> pb::SchemaStatus {
        self.try_status().await.unwrap()
    }

    pub async fn try_status(&self) -> Result<pb::SchemaStatus, Failed> {
        let answer = self
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await;
        answer
            .map(|answer| answer.into_inner().status.unwrap())
            .map_err(|status| Failed::of(&status))
    }

    pub async fn apply(&self, request: pb::ApplyRequest) -> Outcome {
        collect(
            self.client().apply(request).await,
            |response: pb::ApplyResponse| response.event,
        )
        .await
    }

    pub async fn apply_all(&self) -> Outcome {
        self.apply(pb::ApplyRequest::default()).await
    }

    pub async fn rollback(&self, request: pb::RollbackRequest) -> Outcome {
        collect(
            self.client().rollback(request).await,
            |response: pb::RollbackResponse| response.event,
        )
        .await
    }

    pub async fn rollback_steps(&self, n: i32) -> Outcome {
        self.rollback(pb::RollbackRequest {
            target: Some(pb::rollback_request::Target::Steps(n)),
            ..Default::default()
        })
        .await
    }

    pub async fn rollback_all(&self) -> Outcome {
        self.rollback(pb::RollbackRequest {
            target: Some(pb::rollback_request::Target::All(true)),
            ..Default::default()
        })
        .await
    }
}

/// Reads a stream to its end.
pub async fn collect<T>(
    response: Result<Response<Streaming<T>>, Status>,
    event: impl Fn(T) -> Option<OperationEvent>,
) -> Outcome {
    let mut events = Vec::new();
    let status = async {
        let mut stream = response?.into_inner();
        while let Some(message) = stream.message().await? {
            events.push(event(message).expect("an empty message"));
        }
        Ok(())
    };
    let status = status.await;
    Outcome { events, status }
}

impl Outcome {
    /// It succeeded; the last event.
    #[track_caller]
    pub fn finished(&self) -> pb::Finished {
        self.status.as_ref().unwrap_or_else(|s| panic!("{s:?}"));
        self.last_finished().expect("no last event")
    }

    pub fn last_finished(&self) -> Option<pb::Finished> {
        match self.events.last()?.event.clone()? {
            Event::Finished(finished) => Some(finished),
            _ => None,
        }
    }

    /// It failed; the code, the reason and the metadata.
    #[track_caller]
    pub fn failure(&self) -> Failed {
        let status = self.status.as_ref().expect_err("it succeeded");
        Failed::of(status)
    }

    /// The id of the operation it was.
    pub fn operation(&self) -> String {
        self.events
            .iter()
            .find(|e| !e.operation.is_empty())
            .map(|e| e.operation.clone())
            .unwrap_or_default()
    }

    /// The versions of the steps done, in order.
    pub fn done(&self) -> Vec<String> {
        self.events
            .iter()
            .filter_map(|e| match &e.event {
                Some(Event::StepDone(step)) => Some(step.version.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn has(&self, is: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().filter_map(|e| e.event.as_ref()).any(is)
    }
}

/// A status, taken apart.
#[derive(Debug)]
pub struct Failed {
    pub code: Code,
    pub reason: String,
    pub message: String,
    pub metadata: std::collections::HashMap<String, String>,
}

impl Failed {
    #[track_caller]
    pub fn of(status: &Status) -> Self {
        let info = status
            .get_details_error_info()
            .unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
        assert_eq!(info.domain, "schemad");
        Self {
            code: status.code(),
            reason: info.reason,
            message: status.message().into(),
            metadata: info.metadata,
        }
    }

    #[track_caller]
    pub fn assert(&self, code: Code, reason: &str) {
        assert_eq!(
            (self.code, self.reason.as_str()),
            (code, reason),
            "{self:?}"
        );
    }
}

/// What the admin listener answers over HTTP: the status and the body.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}
