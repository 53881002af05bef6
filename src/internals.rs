//! What this repository's own tests and fuzz targets reach, a submodule for each module. It is no
//! part of the public API, and it lists items one by one so that the compiler reports the others
//! when nothing uses them.

pub mod access {
    pub use crate::access::{Access, PresentedCredentials, Role, SecretToken};
}

pub mod doctor {
    pub use crate::doctor::{CheckResult, CheckStatus, DoctorReport, DoctorSettings, examine};
}

pub mod failure {
    pub use crate::failure::{Failure, FailureKind, Reason, status::status_from_failure};
}

pub mod folder {
    pub use crate::migration::folder::{is_blank, metadata_problem, version_of};
}

pub mod ledger {
    pub use crate::ledger::{
        control::{DEAD_AFTER, silent},
        install::VERSION,
        upkeep::prune,
    };
}

pub mod methods {
    pub use crate::api::methods::METHODS;
}

pub mod migration {
    pub use crate::migration::{Checksum, Version, set::MigrationSet};
}

pub mod postgres {
    pub use crate::postgres::{activity::terminate, session::MigrationSession};
}

pub mod private_server {
    pub use crate::postgres::private_server::{
        Durability, PrivatePostgres, PrivateServerError, find_programs,
    };
}

pub mod rehearse {
    pub use crate::rehearse::{
        OutsideEffects, RehearsalEvent, RehearsalSettings, Verdict, rehearse,
    };
}

pub mod request {
    pub use crate::{
        api::request::{
            apply, lease, operation_id, operations, operations_page_token, page, page_token,
            rehearse, resolve, rollback, schema, sign_ledger, version, watch,
        },
        operation::OperationRequest,
    };
}

pub mod runner {
    pub use crate::runner::{LockWait, RunControl};
}

pub mod schema {
    pub use crate::schema::{
        Difference, Except, Kind, Snapshot, Styles, Table, View, diff, for_people, in_one_line,
        read,
    };
}

pub mod scratch {
    pub use crate::postgres::scratch::{ScratchMaker, ScratchName, ScratchTemplate, sweep};
}

pub mod sql {
    pub use crate::sql::{
        ExternalEffect, NOT_SHOWN, Statement, StatementKind, UnitWork, count, drops_roles, excerpt,
        first_reach, first_role_change, has_own_transactions, hazard, is_dynamic, lone_begin,
        nth_character, place, settings, split, start_of, statement_of, transaction_modes, units,
        unterminated,
    };
}

pub mod transport {
    pub use crate::transport::{ByteStream, ServerTls};
}
