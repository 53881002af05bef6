//! What a refusal can be answered with on this command line. The daemon says what happened and what
//! may be done about it in words for every client; the commands and flags for that are told here.

use std::collections::HashMap;

use crate::{api::convert::outcome_of, failure::Reason, pb, planner::ResolveOutcome};

/// A daemon's words without the names of methods, for which there are commands here.
pub(crate) fn without_methods(text: &str) -> String {
    [" (Resolve)", " (SignLedger)", " (Rehearse)"]
        .iter()
        .fold(text.to_owned(), |text, method| text.replace(method, ""))
}

/// Commands that answer a failure of this reason, each on its own.
pub(crate) fn of_failure(reason: Reason, metadata: &HashMap<String, String>) -> Vec<String> {
    let get = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
    let outcomes = ResolveOutcome::of_list(get("resolve"));
    of(reason, get("version"), &outcomes)
}

/// Commands that answer what a status shows.
pub(crate) fn of_problem(problem: &pb::Problem) -> Vec<String> {
    let outcomes: Vec<ResolveOutcome> = problem.outcomes().filter_map(outcome_of).collect();
    match Reason::parse(&problem.reason) {
        // It is told of what a rollback would find, not of what was asked for.
        reason if problem.blocking || !outcomes.is_empty() => {
            of(reason, &problem.version, &outcomes)
        }
        reason @ Reason::SignatureInvalid => of(reason, &problem.version, &outcomes),
        _ => Vec::new(),
    }
}

fn of(reason: Reason, version: &str, outcomes: &[ResolveOutcome]) -> Vec<String> {
    let one = |way: &str| vec![way.to_owned()];
    if !outcomes.is_empty() {
        let version = if version.is_empty() {
            String::new()
        } else {
            format!(" {version}")
        };
        let of_table = [ResolveOutcome::RestoreTable, ResolveOutcome::NothingApplied];
        let resolve = |outcome: &ResolveOutcome| {
            let version = if of_table.contains(outcome) {
                ""
            } else {
                &version
            };
            format!("schemad resolve{version} {} --reason '…'", flag(*outcome))
        };
        return outcomes.iter().map(resolve).collect();
    }
    match reason {
        Reason::OutOfOrder | Reason::UnknownNewer | Reason::ForeignSet => {
            one("schemad apply --allow-out-of-order")
        }
        Reason::InUse => one("schemad rollback … --force"),
        Reason::TooFewApplied => one("schemad rollback --all"),
        Reason::DownsDiffer => ["ledger", "daemon"]
            .map(|from| format!("schemad rollback … --down-from {from}"))
            .into(),
        Reason::ScriptMissing => one("schemad rollback … --down-from daemon"),
        Reason::SignatureInvalid => vec![
            format!("schemad show {version}"),
            format!("schemad ledger sign --version {version} --reason '…'"),
            "schemad rollback … --down-from daemon".into(),
        ],
        Reason::NotRehearsed => one("schemad rehearse --address …"),
        Reason::UnknownVersion | Reason::NotApplied => one("schemad list"),
        Reason::UnknownOperation | Reason::InvalidOperation => one("schemad history"),
        _ => Vec::new(),
    }
}

fn flag(outcome: ResolveOutcome) -> &'static str {
    match outcome {
        ResolveOutcome::Applied => "--applied",
        ResolveOutcome::NotApplied => "--not-applied",
        ResolveOutcome::Retry => "--retry",
        ResolveOutcome::StartOver => "--start-over",
        ResolveOutcome::Accept => "--accept",
        ResolveOutcome::RestoreTable => "--restore-diesel-table",
        ResolveOutcome::NothingApplied => "--nothing-applied",
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// Every command that is advised is one that there is.
    #[test]
    fn what_is_advised_can_be_typed() {
        let every = [
            ResolveOutcome::Applied,
            ResolveOutcome::NotApplied,
            ResolveOutcome::Retry,
            ResolveOutcome::StartOver,
            ResolveOutcome::Accept,
        ];
        let of_table = [ResolveOutcome::RestoreTable, ResolveOutcome::NothingApplied];
        let mut ways: Vec<String> = Reason::ALL
            .iter()
            .flat_map(|reason| of(*reason, "7", &[]))
            .collect();
        ways.extend(of(Reason::InDoubt, "7", &every));
        ways.extend(of(Reason::DieselTableLost, "", &of_table));
        assert!(ways.len() > 15, "{ways:?}");
        for way in ways {
            let target = if way.contains("--address") {
                "127.0.0.1:1"
            } else {
                "--steps=1"
            };
            let words = way.split_whitespace().map(|word| {
                if word == "…" {
                    target
                } else {
                    word.trim_matches('\'')
                }
            });
            let parsed = Cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{way}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn no_method_is_named_where_there_are_commands() {
        assert_eq!(
            without_methods("undo it, and say so (Resolve): that"),
            "undo it, and say so: that"
        );
        assert_eq!(
            without_methods("have it signed (SignLedger); or"),
            "have it signed; or"
        );
    }

    #[test]
    fn a_problem_and_its_refusal_are_answered_with_the_same() {
        let outcomes = [
            pb::ResolveOutcome::Applied,
            pb::ResolveOutcome::NotApplied,
            pb::ResolveOutcome::Retry,
        ];
        let problem = pb::Problem {
            reason: "IN_DOUBT".into(),
            version: "7".into(),
            blocking: true,
            outcomes: outcomes.iter().map(|outcome| i32::from(*outcome)).collect(),
            ..Default::default()
        };
        let metadata = [
            ("version", "7".to_owned()),
            ("resolve", ResolveOutcome::list(&ResolveOutcome::OF_A_DOUBT)),
        ];
        let metadata = metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        assert_eq!(of_problem(&problem), of_failure(Reason::InDoubt, &metadata));
        assert_eq!(
            of_problem(&problem)[1],
            "schemad resolve 7 --not-applied --reason '…'"
        );
    }
}
