//! Scratch databases: made on a server for a while, for rehearsals and leases, and gone afterwards,
//! however their maker ends.
//!
//! Whoever makes some ([`ScratchMaker`]) keeps one session, and on it an advisory lock with a
//! number of its own, which is part of each name. Nobody but its owner gets into one, and for whom
//! it was made. A database whose maker has no lock any more, and that nobody is connected to, was
//! left behind and is dropped by the next who looks ([`sweep()`]): everybody who opens a
//! [`ScratchMaker`], and the daemon now and then.

pub(crate) mod create_options;
mod error;
mod name;
mod sweep;

use std::time::{Duration, Instant};

use tokio_postgres::{Client, error::SqlState, types::Type};

pub(crate) use error::ScratchError;
pub use name::ScratchName;
pub(crate) use sweep::orphans;
pub use sweep::sweep;

use crate::{
    postgres::{self, DatabaseUrl, session::MigrationSession},
    sql::ident,
};

/// The first half of the makers' advisory locks: "scra" in ASCII. The second is the maker's number.
const LOCK: i32 = 0x7363_7261;

/// How often another name is tried when one is taken.
const TRIES: u32 = 3;

/// How long others may take to leave a database that is to be copied. The server itself waits 5 s
/// at each try.
const LEFT_WITHIN: Duration = Duration::from_secs(30);

/// How long the removal of one database may take that others are still being thrown out of.
const REMOVED_WITHIN: Duration = Duration::from_secs(30);

/// What a new database begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScratchTemplate<'a> {
    /// Empty, with the encoding and the locale of the database at the maker's URL.
    Empty,
    /// A copy of this database, which nobody may be connected to meanwhile (but the session that
    /// copies).
    Copy(&'a str),
}

/// A maker of scratch databases. [`ScratchMaker::close`] drops them all; where that is not called
/// (the future is dropped, the process killed), the session ends, its lock with it, and the next
/// `sweep` drops them.
pub struct ScratchMaker {
    session: MigrationSession,
    url: DatabaseUrl,
    /// The number.
    maker: u32,
    /// What the next database is called.
    next: ScratchName,
    /// What there is.
    made: Vec<ScratchName>,
}

impl ScratchMaker {
    /// Connects, sweeps, and takes a number. `url` names a database to be connected to for as long
    /// as this lives; the scratch databases lie beside it. It has to be a direct address (not of a
    /// transaction pooler).
    ///
    /// # Errors
    /// `DatabaseError`: no connection, or the server's own.
    pub async fn open(url: &DatabaseUrl) -> Result<Self, ScratchError> {
        let session = MigrationSession::open(url).await?;
        if let Err(error) = sweep(session.client()).await {
            tracing::debug!(cause = %error, "what others left could not be looked for");
        }
        let maker = loop {
            let maker = uuid::Uuid::new_v4().as_fields().0;
            let query = "SELECT pg_try_advisory_lock($1, $2)";
            let parameters = &[
                (&LOCK as _, Type::INT4),
                (&maker.cast_signed() as _, Type::INT4),
            ];
            let rows = session
                .client()
                .query_typed(query, parameters)
                .await
                .map_err(postgres::DatabaseError::from)?;
            if rows.first().is_some_and(|row| row.get(0)) {
                break maker;
            }
        };
        Ok(Self {
            session,
            url: url.clone(),
            maker,
            next: ScratchName::first_of(maker),
            made: Vec::new(),
        })
    }

    /// Makes a database and returns its name.
    ///
    /// Dropped before it returns, the database may come to be all the same; it is swept.
    ///
    /// # Errors
    /// [`ScratchError`], each a situation.
    pub async fn create(
        &mut self,
        template: ScratchTemplate<'_>,
    ) -> Result<ScratchName, ScratchError> {
        let name = self.make(None, template).await?;
        open(self.session.client(), &name, None).await?;
        Ok(name)
    }

    /// Makes a copy of the database `of`, which is this maker's and to which `own` is connected, in
    /// no transaction: only a database's own session can copy it meanwhile. Nobody can connect to
    /// the copy, which so can be copied at any time.
    ///
    /// # Errors
    /// As [`ScratchMaker::create`].
    pub async fn put_aside(
        &mut self,
        of: &ScratchName,
        own: &Client,
    ) -> Result<ScratchName, ScratchError> {
        let rows = own
            .query_typed("SELECT pg_catalog.pg_backend_pid()", &[])
            .await
            .map_err(postgres::DatabaseError::from)?;
        let own_pid = rows.first().map_or(0, |row| row.get(0));
        self.revive().await?;
        let copied = match close(self.session.client(), of, own_pid).await {
            Ok(()) => self.copy_when_alone(of, own, own_pid).await,
            Err(error) => Err(error.into()),
        };
        let reopen = format!("ALTER DATABASE {of} ALLOW_CONNECTIONS true");
        self.session
            .client()
            .batch_execute(&reopen)
            .await
            .map_err(postgres::DatabaseError::from)?;
        copied
    }

    async fn copy_when_alone(
        &mut self,
        of: &ScratchName,
        own: &Client,
        own_pid: i32,
    ) -> Result<ScratchName, ScratchError> {
        let begun = Instant::now();
        loop {
            match self
                .make(Some(own), ScratchTemplate::Copy(&of.to_string()))
                .await
            {
                Err(ScratchError::TemplateInUse { .. }) if begun.elapsed() < LEFT_WITHIN => {
                    send_away(self.session.client(), of, own_pid).await?;
                }
                made => return made,
            }
        }
    }

    /// Makes a database that nobody can connect to yet.
    async fn make(
        &mut self,
        on: Option<&Client>,
        template: ScratchTemplate<'_>,
    ) -> Result<ScratchName, ScratchError> {
        let client = on.unwrap_or(self.session.client());
        let options = match template {
            ScratchTemplate::Empty => create_options::options(self.session.client()).await?,
            ScratchTemplate::Copy(database) => format!("TEMPLATE {}", ident(database)),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let name = self.next;
            self.next = name.next();
            match client.batch_execute(&create(&name, &options)).await {
                Ok(()) => {
                    self.made.push(name);
                    return Ok(name);
                }
                Err(refused) => {
                    match ScratchError::of(refused.into(), &name, template, &self.url) {
                        ScratchError::NameTaken(_) if tries < TRIES => {}
                        error => return Err(error.with_who(client).await),
                    }
                }
            }
        }
    }

    /// A name of this maker's for a [`copy`]: several can be made at once, each on a session of its
    /// own. `databases` and `close` do not know of it; the sweep does.
    pub fn reserve(&mut self) -> ScratchName {
        let name = self.next;
        self.next = name.next();
        name
    }

    /// Where a database is.
    pub fn url(&self, name: &ScratchName) -> DatabaseUrl {
        self.url.with_database(&name.to_string())
    }

    /// Drops a database, under whoever is connected to it.
    ///
    /// # Errors
    /// The server's, or its loss: it is swept later.
    pub async fn remove(&mut self, name: &ScratchName) -> Result<(), ScratchError> {
        // FORCE, because a migration may have left a session behind that it opened itself.
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        match tokio::time::timeout(REMOVED_WITHIN, self.session.client().batch_execute(&drop)).await
        {
            Ok(dropped) => dropped.map_err(postgres::DatabaseError::from)?,
            Err(_) => return Err(postgres::DatabaseError::Timeout(REMOVED_WITHIN).into()),
        }
        self.made.retain(|made| made != name);
        Ok(())
    }

    /// What there is.
    pub fn databases(&self) -> &[ScratchName] {
        &self.made
    }

    /// The maker's own session, on the database at its URL.
    pub fn client(&self) -> &Client {
        self.session.client()
    }

    /// True while the session lives that keeps others from sweeping what is here.
    pub fn is_alive(&self) -> bool {
        !self.session.client().is_closed()
    }

    /// Goes on with another session, with the same number, where that is gone: a script may have
    /// ended all sessions but its own.
    ///
    /// # Errors
    /// `DatabaseError`: no connection, or the server's own.
    pub async fn revive(&mut self) -> Result<(), ScratchError> {
        if self.session.client().simple_query("").await.is_ok() {
            return Ok(());
        }
        let session = MigrationSession::open(&self.url).await?;
        let parameters = &[
            (&LOCK as _, Type::INT4),
            (&self.maker.cast_signed() as _, Type::INT4),
        ];
        session
            .client()
            .query_typed("SELECT pg_advisory_lock($1, $2)", parameters)
            .await
            .map_err(postgres::DatabaseError::from)?;
        self.session = session;
        Ok(())
    }

    /// Drops all there is, and gives up the number.
    ///
    /// # Errors
    /// The first that came; the rest was tried all the same, and what is left is swept later.
    pub async fn close(mut self) -> Result<(), ScratchError> {
        let mut result = Ok(());
        for name in std::mem::take(&mut self.made) {
            let removed = self.remove(&name).await;
            result = result.and(removed);
        }
        result
    }
}

/// Makes the database `name` a copy of `from`, on a session of the role at `url`. Beside that role
/// the role `guest`, as SQL names it, may connect, where there is one.
///
/// Dropped before it returns, the database may come to be all the same.
///
/// # Errors
/// [`ScratchError`], each a situation.
pub(crate) async fn copy(
    client: &Client,
    name: &ScratchName,
    from: &ScratchName,
    url: &DatabaseUrl,
    guest: &str,
) -> Result<(), ScratchError> {
    let made = client
        .batch_execute(&create(name, &format!("TEMPLATE {from}")))
        .await;
    if let Err(refused) = made {
        return Err(ScratchError::of(
            refused.into(),
            name,
            ScratchTemplate::Copy(&from.to_string()),
            url,
        )
        .with_who(client)
        .await);
    }
    match open(client, name, Some(guest)).await {
        Err(postgres::DatabaseError::Sql(error)) if error.is(&SqlState::UNDEFINED_OBJECT) => {
            Ok(open(client, name, None).await?)
        }
        opened => Ok(opened?),
    }
}

/// A new database lets everybody in who has an account on the server, so nobody gets in before
/// [`open`].
fn create(name: &ScratchName, options: &str) -> String {
    format!("CREATE DATABASE {name} {options} ALLOW_CONNECTIONS false")
}

/// Lets its owner in, and `guest`. Whoever may not connect can do nothing with what else PUBLIC
/// has, and the roles that scripts take keep it: temporary tables, and CREATE in the schema public
/// before PostgreSQL 15.
async fn open(
    client: &Client,
    name: &ScratchName,
    guest: Option<&str>,
) -> Result<(), postgres::DatabaseError> {
    let grant = guest
        .map(|guest| format!("GRANT CONNECT ON DATABASE {name} TO {guest};"))
        .unwrap_or_default();
    let message = format!(
        "REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;{grant}ALTER DATABASE {name} \
         ALLOW_CONNECTIONS true"
    );
    Ok(client.batch_execute(&message).await?)
}

/// Lets nobody into a database any more and sends away who is there, but for the session with this
/// process id. A server's own workers (TimescaleDB's schedulers, for example) come into every
/// database that takes connections, and would be in the way of a copy.
///
/// # Errors
/// The server's, or its loss.
pub(crate) async fn close(
    client: &Client,
    name: &ScratchName,
    but_for: i32,
) -> Result<(), postgres::DatabaseError> {
    client
        .batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        .await?;
    send_away(client, name, but_for).await
}

/// Ends the sessions in a database, as far as this role may.
async fn send_away(
    client: &Client,
    name: &ScratchName,
    but_for: i32,
) -> Result<(), postgres::DatabaseError> {
    let there = "SELECT a.pid FROM pg_catalog.pg_stat_activity a WHERE a.datname = $1::name AND \
        a.pid <> $2";
    let rows = client
        .query_typed(
            there,
            &[(&name.to_string(), Type::TEXT), (&but_for, Type::INT4)],
        )
        .await?;
    for row in rows {
        let pid: i32 = row.get(0);
        // One by one: of a superuser's the server refuses it to others, and whoever stays is named
        // when the copy is refused.
        let ended = client
            .query_typed(
                "SELECT pg_catalog.pg_terminate_backend($1)",
                &[(&pid, Type::INT4)],
            )
            .await;
        match ended.map_err(postgres::DatabaseError::from) {
            Ok(_) => {}
            Err(error @ postgres::DatabaseError::Sql(_)) => {
                tracing::debug!(pid, cause = %error, "a session in a scratch database stays")
            }
            Err(lost) => return Err(lost),
        }
    }
    Ok(())
}

/// Drops a scratch database, under whoever is connected to it: a migration may have left a session
/// behind that it opened itself.
///
/// # Errors
/// The server's, or its loss.
pub(crate) async fn drop_database(
    client: &Client,
    name: &ScratchName,
) -> Result<(), postgres::DatabaseError> {
    Ok(client
        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        .await?)
}
