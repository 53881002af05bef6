//! A client: one request, and what it heard.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _};
use schemad::pb::{
    self, OperationEvent, migration_service_client::MigrationServiceClient, operation_event::Event,
};
use tokio::sync::mpsc::UnboundedSender;
use tonic::{Status, transport::Endpoint};
use tonic_types::StatusExt;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Apply,
    ApplySteps(i32),
    Rollback(i32),
    RollbackAll,
}

/// A wish with its options.
#[derive(Clone, Debug)]
pub struct Request {
    pub wish: Wish,
    /// Empty: a new one.
    pub id: String,
    /// How long it waits for others.
    pub queue: Duration,
    /// How long a step may go on retrying for its locks.
    pub lock_wait: Duration,
}

impl Request {
    pub fn new(wish: Wish) -> Self {
        Self {
            wish,
            id: String::new(),
            queue: Duration::from_secs(40),
            lock_wait: Duration::from_secs(30),
        }
    }
}

/// What a client heard.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub operation: String,
    /// StepDone: version and direction.
    pub done: Vec<(String, String)>,
    pub finished: Option<pb::Finished>,
    /// It followed an operation that was there before.
    pub repeated: bool,
    /// The final status, when it was not OK.
    pub status: Option<Status>,
}

impl Told {
    pub fn succeeded(&self) -> bool {
        self.status.is_none() && self.finished.is_some()
    }

    pub fn reason(&self) -> String {
        let info = self
            .status
            .as_ref()
            .and_then(StatusExt::get_details_error_info);
        info.map(|info| info.reason).unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.status.as_ref().map_or("", |status| status.message())
    }

    /// The daemon itself says that it does not know.
    pub fn is_unknown(&self) -> bool {
        self.message().contains("could not be asked in time")
    }

    pub fn hear(&mut self, event: OperationEvent) {
        if !event.operation.is_empty() {
            self.operation = event.operation;
        }
        match event.event {
            Some(Event::StepDone(step)) => {
                let direction = if step.direction() == pb::Direction::Up {
                    "up"
                } else {
                    "down"
                };
                self.done.push((step.version, direction.into()));
            }
            Some(Event::Accepted(accepted)) => self.repeated = accepted.repeated,
            Some(Event::Finished(finished)) => self.finished = Some(finished),
            _ => {}
        }
    }
}

pub type Events = Pin<Box<dyn Stream<Item = Result<OperationEvent, Status>> + Send>>;

/// Sends a request, and returns what is heard.
pub async fn send(address: &str, request: &Request) -> Result<Events, Status> {
    send_on(
        Endpoint::from_shared(format!("http://{address}")).unwrap(),
        request,
    )
    .await
}

/// The same on a connection with settings of its own.
pub async fn send_on(endpoint: Endpoint, request: &Request) -> Result<Events, Status> {
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = MigrationServiceClient::new(channel);
    let duration = |d: Duration| {
        Some(prost_types::Duration {
            seconds: d.as_secs() as i64,
            nanos: d.subsec_nanos() as i32,
        })
    };
    let (queue_timeout, lock_wait) = (duration(request.queue), duration(request.lock_wait));
    let request_id = request.id.clone();
    Ok(match request.wish {
        Wish::Apply | Wish::ApplySteps(_) => {
            let target = match request.wish {
                Wish::ApplySteps(n) => Some(pb::apply_request::Target::Steps(n)),
                _ => None,
            };
            let request = pb::ApplyRequest {
                target,
                queue_timeout,
                lock_wait,
                request_id,
                ..Default::default()
            };
            let stream = client.apply(request).await?.into_inner();
            Box::pin(stream.map(|message| message.map(|m| m.event.unwrap_or_default())))
        }
        Wish::Rollback(_) | Wish::RollbackAll => {
            let target = Some(match request.wish {
                Wish::Rollback(n) => pb::rollback_request::Target::Steps(n),
                _ => pb::rollback_request::Target::All(true),
            });
            let request = pb::RollbackRequest {
                target,
                queue_timeout,
                lock_wait,
                request_id,
                ..Default::default()
            };
            let stream = client.rollback(request).await?.into_inner();
            Box::pin(stream.map(|message| message.map(|m| m.event.unwrap_or_default())))
        }
    })
}

/// Asks and hears everything; each event is passed on to `progress`.
pub async fn ask(address: &str, request: &Request, progress: Option<UnboundedSender<()>>) -> Told {
    let mut told = Told::default();
    let mut events = match send(address, request).await {
        Ok(events) => events,
        Err(status) => {
            return Told {
                status: Some(status),
                ..told
            };
        }
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                told.hear(event);
                if let Some(progress) = &progress {
                    let _ = progress.send(());
                }
            }
            Err(status) => told.status = Some(status),
        }
    }
    told
}
