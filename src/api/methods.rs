//! What each method needs of its caller: one table. A method that is not in it is refused to
//! everybody, and a test walks the descriptors so that none is forgotten.

use crate::access::Role;

/// What a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodPolicy {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// The least role; `None`: anybody may call it, known or not.
    pub role: Option<Role>,
    /// How it is counted.
    pub counts: QuotaKind,
}

/// How a call is counted against its caller's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaKind {
    /// As a request, whose answer has to be read in time.
    Request,
    /// As a request that may take long.
    Operation,
    /// As a watcher: it stays open.
    Watcher,
    /// As reflection: anybody may ask, and the answers are large.
    Reflection,
    /// Not at all, beside its connection's streams.
    Not,
}

const fn row(path: &'static str, role: Option<Role>, counts: QuotaKind) -> MethodPolicy {
    MethodPolicy { path, role, counts }
}

/// Every method that is served.
pub const METHODS: &[MethodPolicy] = &[
    row(
        "/schemad.v1.MigrationService/GetStatus",
        Some(Role::Viewer),
        QuotaKind::Request,
    ),
    row(
        "/schemad.v1.MigrationService/ListMigrations",
        Some(Role::Viewer),
        QuotaKind::Request,
    ),
    row(
        "/schemad.v1.MigrationService/GetMigration",
        Some(Role::Viewer),
        QuotaKind::Request,
    ),
    row(
        "/schemad.v1.MigrationService/Apply",
        Some(Role::Deployer),
        QuotaKind::Operation,
    ),
    row(
        "/schemad.v1.MigrationService/Rollback",
        Some(Role::Admin),
        QuotaKind::Operation,
    ),
    row(
        "/schemad.v1.MigrationService/Rehearse",
        Some(Role::Deployer),
        QuotaKind::Operation,
    ),
    row(
        "/schemad.v1.MigrationService/Resolve",
        Some(Role::Admin),
        QuotaKind::Operation,
    ),
    row(
        "/schemad.v1.MigrationService/SignLedger",
        Some(Role::Admin),
        QuotaKind::Operation,
    ),
    row(
        "/schemad.v1.OperationService/GetOperation",
        Some(Role::Viewer),
        QuotaKind::Request,
    ),
    row(
        "/schemad.v1.OperationService/ListOperations",
        Some(Role::Viewer),
        QuotaKind::Request,
    ),
    row(
        "/schemad.v1.OperationService/WatchOperation",
        Some(Role::Viewer),
        QuotaKind::Watcher,
    ),
    // A deployer its own, an admin any.
    row(
        "/schemad.v1.OperationService/CancelOperation",
        Some(Role::Deployer),
        QuotaKind::Request,
    ),
    row(
        "/schemad.v1.SchemaService/DescribeSchema",
        Some(Role::Viewer),
        QuotaKind::Request,
    ),
    // Whoever tests in CI. It gives rights on another server, and load.
    row(
        "/schemad.v1.LeaseService/Lease",
        Some(Role::Deployer),
        QuotaKind::Operation,
    ),
    row("/grpc.health.v1.Health/Check", None, QuotaKind::Not),
    row("/grpc.health.v1.Health/Watch", None, QuotaKind::Watcher),
    row(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        None,
        QuotaKind::Reflection,
    ),
    row(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        None,
        QuotaKind::Reflection,
    ),
];

/// The row of a path.
pub(crate) fn of(path: &str) -> Option<&'static MethodPolicy> {
    METHODS.iter().find(|method| method.path == path)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::pb;

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let sets = [
            pb::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut paths = Vec::new();
        for file in sets
            .iter()
            .flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file)
        {
            for service in &file.service {
                let path =
                    |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
                paths.extend(service.method.iter().map(|method| path(method.name())));
            }
        }
        paths.sort();
        let mut rows: Vec<_> = METHODS.iter().map(|method| method.path).collect();
        rows.sort_unstable();
        assert_eq!(paths, rows);
    }
}
