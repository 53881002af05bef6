//! Every message that a client can send: what comes off the wire, through the conversion that
//! checks it.

use std::time::Duration;

use prost::Message;
use schemad::{
    internals::{
        failure::{Failure, FailureKind, status_from_failure},
        request::{self, OperationRequest},
    },
    pb,
};
use uuid::Uuid;

/// No wait is longer.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Who asks.
const WHO: &str = "token:ci";

/// The first byte chooses the message, the rest are its bytes.
pub fn request(data: &[u8]) {
    let Some((&which, bytes)) = data.split_first() else {
        return;
    };
    match which % 12 {
        0 => operation(decoded(bytes), |message| request::apply(WHO, message)),
        1 => operation(decoded(bytes), |message| request::rollback(WHO, message)),
        2 => operation(decoded(bytes), |message: pb::ResolveRequest| {
            request::resolve(WHO, &message)
        }),
        3 => list_operations(bytes),
        4 => ended(decoded(bytes).map(|message: pb::WatchOperationRequest| {
            request::watch(&message).map(|(_, after)| assert!(i64::try_from(after).is_ok()))
        })),
        5 => ended(decoded(bytes).map(|message: pb::ListMigrationsRequest| {
            request::page(message.page_size, &message.page_token)
                .map(|(_, size)| assert!((1..=1000).contains(&size)))
        })),
        6 => ended(decoded(bytes).map(|message: pb::GetMigrationRequest| {
            request::version("version", &message.version)
                .map(|version| version.as_str().to_owned())
                .map(drop)
        })),
        7 => operation(decoded(bytes), |message: pb::SignLedgerRequest| {
            request::sign_ledger(WHO, &message)
        }),
        8 => {
            ended(decoded(bytes).map(|message: pb::GetOperationRequest| {
                request::operation_id(&message.id).map(drop)
            }))
        }
        9 => ended(
            decoded(bytes)
                .map(|message: pb::RehearseRequest| request::rehearse(&message).map(drop)),
        ),
        10 => ended(decoded(bytes).map(|message: pb::LeaseRequest| {
            request::lease(&message).map(|asked| {
                assert!(
                    [asked.ttl, asked.queue_timeout]
                        .iter()
                        .flatten()
                        .all(|asked| *asked <= DAY)
                )
            })
        })),
        _ => ended(
            decoded(bytes)
                .map(|message: pb::DescribeSchemaRequest| request::schema(message).map(drop)),
        ),
    }
}

/// The bytes are a token. Only what a list handed out is taken, and it means what it meant.
pub fn page_token(data: &[u8]) {
    let Ok(token) = std::str::from_utf8(data) else {
        return;
    };
    if let Some((after, _)) = taken(request::page(0, token))
        && let Some(Ok(version)) = after.as_deref().map(str::parse)
    {
        assert_eq!(
            taken(request::page(0, &request::page_token(&version)))
                .unwrap()
                .0,
            after
        );
    }
    let base = pb::ListOperationsRequest {
        page_token: token.into(),
        ..Default::default()
    };
    if let Some((filter, _)) = taken(request::operations(base)) {
        assert_eq!(filter.after.is_some(), !token.is_empty());
    }
    let Ok(version) = token.parse() else { return };
    let sealed = request::page_token(&version);
    assert_eq!(
        request::page(0, &sealed).unwrap().0.as_deref(),
        Some(version.as_str())
    );
    let foreign = pb::ListOperationsRequest {
        page_token: sealed,
        ..Default::default()
    };
    assert!(
        request::operations(foreign).is_err(),
        "a token of another list is taken"
    );
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

fn operation<M: Clone>(message: Option<M>, check: impl Fn(M) -> Result<OperationRequest, Failure>) {
    let Some(message) = message else { return };
    let Some(request) = taken(check(message.clone())) else {
        return;
    };
    assert!(
        [
            request.queue_timeout,
            request.lock_wait,
            request.lock_timeout
        ]
        .iter()
        .all(|wait| *wait <= DAY)
    );
    let again = check(message).expect("what was taken is taken again");
    assert_eq!(request.hash(), again.hash(), "one message, two hashes");
    // It reaches log lines and ledger rows, whatever it holds.
    assert!(
        !format!("{request:?}").contains('\0'),
        "a NUL, which PostgreSQL refuses"
    );
}

fn list_operations(bytes: &[u8]) {
    let Some(message) = decoded::<pb::ListOperationsRequest>(bytes) else {
        return;
    };
    let Some((filter, size)) = taken(request::operations(message.clone())) else {
        return;
    };
    assert!((1..=1000).contains(&size));
    let texts = [&filter.principal, &filter.version];
    assert!(
        texts.into_iter().flatten().all(|text| !text.contains('\0')),
        "a NUL, which PostgreSQL refuses"
    );
    let id = Uuid::from_u128(7);
    let page_token = request::operations_page_token(&filter, 17, id);
    let (next, _) = request::operations(pb::ListOperationsRequest {
        page_token,
        ..message
    })
    .expect("its own token");
    assert_eq!(next.after, Some((17, id)));
}

fn ended(result: Option<Result<(), Failure>>) {
    if let Some(result) = result {
        let _ = taken(result);
    }
}

/// A refusal of a request names its field and is the caller's fault; it becomes a status that fits
/// into the trailers.
fn taken<T>(result: Result<T, Failure>) -> Option<T> {
    result
        .inspect_err(|failure| {
            assert_eq!(failure.reason.kind(), FailureKind::Invalid, "{failure:?}");
            assert!(failure.field.is_some(), "{failure:?}");
            let status = status_from_failure(failure);
            assert!(
                status.message().len() <= 1000 && status.details().len() < 5000,
                "{failure:?}"
            );
        })
        .ok()
}
