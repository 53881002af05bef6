//! The way to the server, and the server.

use std::time::{Duration, SystemTime};

use super::{CheckResult, CheckStatus, ReadOnlySession};
use crate::{
    failure::{Failure, Reason},
    postgres::{DatabaseError, DatabaseUrl, TlsMode, pooler, session::MigrationSession},
};

/// More would let tokens and certificates seem expired, or not yet valid, on one side only.
const SKEW: Duration = Duration::from_secs(5);

/// Who answers, and what lies in between.
pub(super) async fn connection(
    name: &'static str,
    asking: &ReadOnlySession<'_>,
    url: &DatabaseUrl,
) -> Result<CheckResult, DatabaseError> {
    let row = asking
        .one(
            "SELECT coalesce(s.ssl, false), s.version, s.cipher, inet_server_addr() IS NULL, \
             coalesce(inet_server_addr() <<= '127.0.0.0/8' OR inet_server_addr() = '::1', false) \
             FROM (SELECT 1) one LEFT JOIN pg_stat_ssl s ON s.pid = pg_backend_pid()",
        )
        .await?;
    let (ssl, socket, local): (bool, bool, bool) = (row.get(0), row.get(3), row.get(4));
    let way = match (ssl, socket) {
        (true, _) => {
            let (version, cipher): (Option<String>, Option<String>) = (row.get(1), row.get(2));
            format!(
                "{} {}",
                version.unwrap_or_default(),
                cipher.unwrap_or_default()
            )
        }
        (false, true) => "a unix socket".into(),
        (false, false) => "no TLS".into(),
    };
    let mode = url.tls();
    let found = if socket {
        format!("{} through {way}", url.target())
    } else {
        format!(
            "{} with {way}; sslmode={}: {}",
            url.target(),
            mode.as_str(),
            mode.meaning()
        )
    };
    Ok(match (socket || local, ssl, mode.verifies()) {
        (true, ..) | (_, true, true) => CheckResult::ok(name, found),
        (_, false, _) if mode == TlsMode::Disable => CheckResult::warn(name, found)
            .todo("passwords and data can be read on the way: sslmode=verify-full"),
        (_, false, _) => CheckResult::warn(name, found)
            .todo("the server has TLS off: turn it on, and set sslmode=verify-full"),
        (_, true, false) => CheckResult::warn(name, found)
            .todo("whoever answers there is believed: sslmode=verify-full and sslrootcert"),
    })
}

/// Its version, and whether it takes writes.
pub(super) async fn server(asking: &ReadOnlySession<'_>) -> Result<CheckResult, DatabaseError> {
    let row = asking
        .one(
            "SELECT current_setting('server_version'), pg_is_in_recovery(), (SELECT reset_val = \
             'on' FROM pg_settings WHERE name = 'default_transaction_read_only')",
        )
        .await?;
    let version: String = row.get(0);
    let found = format!(
        "PostgreSQL {}",
        version.split(' ').next().unwrap_or_default()
    );
    Ok(match (row.get(1), row.get(2)) {
        (true, _) => read_only(
            format!("{found}, a standby"),
            "point MIGRATION_DATABASE_URL at the primary",
        ),
        (_, true) => read_only(
            format!("{found}, read-only by default"),
            "take default_transaction_read_only from the role, the database or the server",
        ),
        (false, false) => CheckResult::ok("server", found),
    })
}

fn read_only(found: String, todo: &str) -> CheckResult {
    CheckResult::new(
        "server",
        CheckStatus::Fail,
        format!("{}: {found}", Reason::ReadOnlyServer),
    )
    .todo(todo)
}

/// Whether a session is one.
pub(super) async fn pooler(
    name: &'static str,
    session: &MigrationSession,
    url: &DatabaseUrl,
    setting: &str,
) -> CheckResult {
    match pooler::prove_direct(session, url).await {
        Ok(()) => CheckResult::ok(name, "none, or one in session mode"),
        Err(error @ DatabaseError::Pooler(_)) => CheckResult::fail(name, error).todo(format!(
            "set {setting} to a direct or session-pooled address (docs/servers.md)"
        )),
        Err(error) => CheckResult::fail(name, Failure::from(error)),
    }
}

/// Whether both sides know the same time, as far as the way allows to say.
pub(super) async fn clock(asking: &ReadOnlySession<'_>) -> Result<CheckResult, DatabaseError> {
    let before = SystemTime::now();
    let row = asking
        .one("SELECT extract(epoch FROM clock_timestamp())::float8")
        .await?;
    let took = before.elapsed().unwrap_or_default();
    let here = before
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        + took / 2;
    let ahead = row.get::<_, f64>(0) - here.as_secs_f64();
    let found = format!("the server's is {ahead:+.1} s from this machine's");
    Ok(if ahead.abs() <= (SKEW + took).as_secs_f64() {
        CheckResult::ok("clock", found)
    } else {
        CheckResult::warn("clock", found)
            .todo("let both follow NTP: times in the log and in the ledger disagree")
    })
}
