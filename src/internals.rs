//! What this repository's own tests and fuzz targets reach, a submodule for each module. It is no part
//! of the public API, and it lists items one by one so that the compiler reports the others when
//! nothing uses them.

pub mod access {
    pub use crate::access::{Access, Presented, Role, Secret};
}

pub mod doctor {
    pub use crate::doctor::{Check, Plan, Report, Status, examine};
}

pub mod failure {
    pub use crate::failure::{Failure, Kind, Reason, status::from_failure};
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
    pub use crate::migration::{Checksum, Version, set::Catalog};
}

pub mod postgres {
    pub use crate::postgres::{activity::terminate, session::Session};
}

pub mod private_server {
    pub use crate::postgres::private_server::{Durability, Error, PrivatePostgres, find_programs};
}

pub mod rehearse {
    pub use crate::rehearse::{Event, Outside, Settings, Verdict, rehearse};
}

pub mod request {
    pub use crate::{
        api::request::{
            apply, lease, operation_id, operations, operations_page_token, page, page_token,
            rehearse, resolve, rollback, schema, sign_ledger, version, watch,
        },
        operation::Request,
    };
}

pub mod runner {
    pub use crate::runner::{Orders, Wait};
}

pub mod schema {
    pub use crate::schema::{
        Difference, Except, Kind, Snapshot, Styles, Table, View, diff, for_people, in_one_line,
        read,
    };
}

pub mod scratch {
    pub use crate::postgres::scratch::{Name, Scratch, Template, sweep};
}

pub mod sql {
    pub use crate::sql::{
        Kind, NOT_SHOWN, Reach, Statement, Work, count, drops_roles, excerpt, first_reach,
        first_role_change, has_own_transactions, hazard, is_dynamic, lone_begin, nth_character,
        place, settings, split, start_of, statement_of, transaction_modes, units, unterminated,
    };
}

pub mod transport {
    pub use crate::transport::{Io, ServerTls};
}
