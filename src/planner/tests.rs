use std::{num::NonZeroUsize, time::SystemTime};

use super::{
    apply::ApplyTarget,
    rollback::{DownSource, RollbackTarget},
    *,
};
use crate::migration::{
    JournalRecord, MigrationRecord,
    set::{
        MigrationSet,
        tests::{Hand, Source as HandSource},
    },
};

const NAMES: [&str; 5] = ["1_a", "2_b", "3_c", "4_d", "5_e"];

pub(super) fn set(numbers: &[usize]) -> MigrationSet {
    let hands = numbers
        .iter()
        .map(|n| Hand(NAMES[n - 1], vec!["SELECT 1"], Some("SELECT 2")))
        .collect();
    MigrationSet::load(&HandSource(hands)).unwrap()
}

pub(super) fn version(n: usize) -> Version {
    n.to_string().parse().unwrap()
}

/// Applied by schemad, in this order.
pub(super) fn applied(numbers: &[usize]) -> Vec<MigrationRow> {
    let script = |sql: &str| Some((Checksum::of_script(sql), ScriptMode::Transactional));
    let mut rows: Vec<MigrationRow> = numbers
        .iter()
        .enumerate()
        .map(|(position, n)| MigrationRow {
            version: version(*n),
            run_on: Some(SystemTime::UNIX_EPOCH),
            recorded: Some(MigrationRecord {
                name: NAMES[n - 1].into(),
                position: position as i64,
                up: script("SELECT 1"),
                down: script("SELECT 2"),
                mac: None,
                applied_at: SystemTime::UNIX_EPOCH,
                adopted: false,
                operation: None,
                duration: None,
            }),
            journal: None,
        })
        .collect();
    rows.sort_by(|a, b| a.version.cmp(&b.version));
    rows
}

fn apply(target: ApplyTarget) -> ApplyRequest {
    ApplyRequest {
        target,
        ..ApplyRequest::default()
    }
}

fn rollback(target: RollbackTarget) -> RollbackRequest {
    RollbackRequest {
        target,
        down_from: None,
        force: false,
    }
}

fn versions(plan: &StepPlan) -> Vec<&str> {
    plan.steps
        .iter()
        .map(|step| step.version.as_str())
        .collect()
}

fn n(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn subsets() -> impl Iterator<Item = Vec<usize>> {
    (0..32_usize).map(|bits| (1..=5).filter(|n| bits >> (n - 1) & 1 == 1).collect())
}

#[test]
fn a_set_with_nothing_of_what_is_applied_is_refused() {
    let refused = plan_apply(&set(&[3]), &applied(&[1, 2]), &ApplyRequest::default()).unwrap_err();
    assert!(
        matches!(refused, PlanRefusal::ForeignSet { applied: 2, .. }),
        "{refused}"
    );
    let insists = ApplyRequest {
        allow_out_of_order: true,
        ..ApplyRequest::default()
    };
    assert_eq!(
        versions(&plan_apply(&set(&[3]), &applied(&[1, 2]), &insists).unwrap()),
        ["3"]
    );
    // One that both have is enough: the others may have been put together.
    assert_eq!(
        versions(&plan_apply(&set(&[2, 3]), &applied(&[1, 2]), &ApplyRequest::default()).unwrap()),
        ["3"]
    );
    // Nothing is pending, so nothing is refused.
    assert!(plan_apply(&set(&[]), &applied(&[1, 2]), &ApplyRequest::default()).is_ok());
}

#[test]
fn planning_after_applying_a_plan_yields_nothing() {
    for (embedded, done) in subsets().flat_map(|e| subsets().map(move |d| (e.clone(), d))) {
        let (catalog, rows) = (set(&embedded), applied(&done));
        let request = ApplyRequest {
            allow_out_of_order: true,
            ..ApplyRequest::default()
        };
        let plan = plan_apply(&catalog, &rows, &request).unwrap();
        let mut after = done.clone();
        after.extend(
            plan.steps
                .iter()
                .map(|step| step.version.as_str().parse::<usize>().unwrap()),
        );
        let again = plan_apply(&catalog, &applied(&after), &request).unwrap();
        assert!(again.steps.is_empty(), "{embedded:?} {done:?}");
        let state = assess(&catalog, &applied(&after)).state;
        assert!(
            matches!(state, SchemaState::Current | SchemaState::Ahead),
            "{embedded:?} {done:?} {state:?}"
        );
    }
}

#[test]
fn status_and_plan_agree_on_every_database() {
    for (embedded, done) in subsets().flat_map(|e| subsets().map(move |d| (e.clone(), d))) {
        let (catalog, rows) = (set(&embedded), applied(&done));
        let plan = plan_apply(&catalog, &rows, &ApplyRequest::default());
        let expected = match (&plan, done.is_empty()) {
            (Err(_), _) => SchemaState::Diverged,
            (Ok(plan), true) if !plan.steps.is_empty() => SchemaState::Empty,
            (Ok(plan), false) if !plan.steps.is_empty() => SchemaState::Behind,
            (Ok(_), _) if done.iter().all(|n| embedded.contains(n)) => SchemaState::Current,
            (Ok(_), _) => SchemaState::Ahead,
        };
        assert_eq!(
            assess(&catalog, &rows).state,
            expected,
            "{embedded:?} {done:?}"
        );
    }
}

#[test]
fn rolling_back_reverses_the_order_of_application_and_can_be_undone() {
    let rows = applied(&[1, 3, 2]);
    let plan = plan_rollback(&set(&[1, 2, 3]), &rows, &rollback(RollbackTarget::All)).unwrap();
    assert_eq!(versions(&plan), ["2", "3", "1"]);
    let plan = plan_rollback(
        &set(&[1, 2, 3]),
        &rows,
        &rollback(RollbackTarget::To(version(1))),
    )
    .unwrap();
    assert_eq!(versions(&plan), ["2", "3"]);
    let plan = plan_rollback(
        &set(&[1, 2, 3]),
        &rows,
        &rollback(RollbackTarget::Steps(n(1))),
    )
    .unwrap();
    assert_eq!(versions(&plan), ["2"]);
}

#[test]
fn what_only_diesel_knows_was_applied_last_in_the_order_of_run_on() {
    let mut rows = applied(&[2, 1]);
    for (v, second) in [(5, 1), (3, 2)] {
        let run_on = Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second));
        rows.push(MigrationRow {
            version: version(v),
            run_on,
            recorded: None,
            journal: None,
        });
    }
    let plan = plan_rollback(&set(&[1, 2, 3, 5]), &rows, &rollback(RollbackTarget::All)).unwrap();
    assert_eq!(versions(&plan), ["3", "5", "1", "2"]);
}

#[test]
fn targets_stop_where_they_say() {
    let catalog = set(&[1, 2, 3, 4]);
    let rows = applied(&[1]);
    assert_eq!(
        versions(&plan_apply(&catalog, &rows, &apply(ApplyTarget::To(version(3)))).unwrap()),
        ["2", "3"]
    );
    assert_eq!(
        versions(&plan_apply(&catalog, &rows, &apply(ApplyTarget::Steps(n(1)))).unwrap()),
        ["2"]
    );
    assert_eq!(
        versions(&plan_apply(&catalog, &rows, &apply(ApplyTarget::Steps(n(99)))).unwrap()),
        ["2", "3", "4"]
    );
    assert_eq!(
        versions(&plan_apply(&catalog, &rows, &apply(ApplyTarget::To(version(1)))).unwrap()),
        [""; 0]
    );
}

#[test]
fn a_late_merge_is_refused_unless_allowed() {
    let (catalog, rows) = (set(&[1, 2, 3]), applied(&[1, 3]));
    let refusal = plan_apply(&catalog, &rows, &ApplyRequest::default()).unwrap_err();
    assert_eq!(
        refusal,
        PlanRefusal::OutOfOrder {
            pending: version(2),
            applied: version(3)
        }
    );
    let allowed = ApplyRequest {
        allow_out_of_order: true,
        ..ApplyRequest::default()
    };
    assert_eq!(
        versions(&plan_apply(&catalog, &rows, &allowed).unwrap()),
        ["2"]
    );
}

#[test]
fn pending_below_an_unknown_newer_one_is_refused_and_ahead_is_nothing_to_do() {
    let refusal =
        plan_apply(&set(&[1, 2]), &applied(&[1, 3]), &ApplyRequest::default()).unwrap_err();
    assert_eq!(
        refusal,
        PlanRefusal::UnknownNewer {
            pending: version(2),
            applied: version(3)
        }
    );
    let plan = plan_apply(&set(&[1]), &applied(&[1, 2]), &ApplyRequest::default()).unwrap();
    assert!(
        plan.steps.is_empty() && plan.warnings[0].contains("ahead"),
        "{plan:?}"
    );
}

#[test]
fn an_edited_up_refuses_apply_and_an_edited_down_does_not() {
    let mut rows = applied(&[1]);
    rows[0].recorded.as_mut().unwrap().up =
        Some((Checksum::of_script("SELECT 0"), ScriptMode::Transactional));
    let catalog = set(&[1, 2]);
    assert!(matches!(
        plan_apply(&catalog, &rows, &ApplyRequest::default()),
        Err(PlanRefusal::Edited { .. })
    ));
    assert_eq!(assess(&catalog, &rows).state, SchemaState::Diverged);

    let mut rows = applied(&[1]);
    rows[0].recorded.as_mut().unwrap().down =
        Some((Checksum::of_script("SELECT 0"), ScriptMode::Transactional));
    assert_eq!(
        versions(&plan_apply(&catalog, &rows, &ApplyRequest::default()).unwrap()),
        ["2"]
    );
    let differ = plan_rollback(&catalog, &rows, &rollback(RollbackTarget::All));
    assert!(matches!(differ, Err(PlanRefusal::DownsDiffer { .. })));
    for (source, expected) in [
        (DownSource::Ledger, "SELECT 0"),
        (DownSource::Binary, "SELECT 2"),
    ] {
        let request = RollbackRequest {
            target: RollbackTarget::All,
            down_from: Some(source),
            force: false,
        };
        let plan = plan_rollback(&catalog, &rows, &request).unwrap();
        assert_eq!(
            plan.steps[0].script.checksum(),
            Checksum::of_script(expected)
        );
    }
}

#[test]
fn another_set_than_expected_is_refused() {
    let request = ApplyRequest {
        expected_set: Some(set(&[1]).digest()),
        ..ApplyRequest::default()
    };
    assert!(plan_apply(&set(&[1]), &[], &request).is_ok());
    assert!(matches!(
        plan_apply(&set(&[1, 2]), &[], &request),
        Err(PlanRefusal::SetMismatch { .. })
    ));
}

#[test]
fn unknown_and_unapplied_targets_are_told_apart() {
    let (catalog, rows) = (set(&[1, 2]), applied(&[1]));
    let unknown = Err(PlanRefusal::UnknownVersion(version(4)));
    assert_eq!(
        plan_apply(&catalog, &rows, &apply(ApplyTarget::To(version(4)))).map(|_| ()),
        unknown
    );
    assert_eq!(
        plan_rollback(&catalog, &rows, &rollback(RollbackTarget::To(version(4)))).map(|_| ()),
        unknown
    );
    let unapplied = Err(PlanRefusal::NotApplied(version(2)));
    assert_eq!(
        plan_rollback(&catalog, &rows, &rollback(RollbackTarget::To(version(2)))).map(|_| ()),
        unapplied
    );
    let few = Err(PlanRefusal::TooFewApplied {
        applied: 1,
        asked: 2,
    });
    assert_eq!(
        plan_rollback(&catalog, &rows, &rollback(RollbackTarget::Steps(n(2)))).map(|_| ()),
        few
    );
}

#[test]
fn nothing_applied_is_nothing_to_roll_back() {
    let plan = plan_rollback(&set(&[1]), &[], &rollback(RollbackTarget::Steps(n(3)))).unwrap();
    assert!(plan.steps.is_empty());
}

#[test]
fn a_migration_without_any_down_cannot_be_rolled_back_and_says_why() {
    let mut rows = applied(&[1]);
    rows[0].recorded.as_mut().unwrap().down = None;
    let known = plan_rollback(&set(&[]), &rows, &rollback(RollbackTarget::All)).unwrap_err();
    assert_eq!(
        known,
        PlanRefusal::Irreversible {
            version: version(1),
            adopted: false
        }
    );
    rows[0].recorded = None;
    let adopted = plan_rollback(&set(&[]), &rows, &rollback(RollbackTarget::All)).unwrap_err();
    assert_eq!(
        adopted,
        PlanRefusal::Irreversible {
            version: version(1),
            adopted: true
        }
    );
    // The binary's down is as good as any when the ledger has none.
    assert_eq!(
        versions(&plan_rollback(&set(&[1]), &rows, &rollback(RollbackTarget::All)).unwrap()),
        ["1"]
    );
}

#[test]
fn what_somebody_else_reverted_is_told_and_pending_again() {
    let mut rows = applied(&[1, 2]);
    rows[1].run_on = None;
    let assessment = assess(&set(&[1, 2]), &rows);
    assert_eq!(assessment.state, SchemaState::Behind);
    assert_eq!(
        (
            assessment.problems[0].reason,
            assessment.problems[0].blocking
        ),
        ("REVERTED_ELSEWHERE", false)
    );
}

/// A half done up that this binary lacks: it cannot go on with it, and nothing is applied on top.
#[test]
fn what_another_release_left_half_applied_is_in_the_way() {
    let journal = JournalRecord {
        step: 7,
        direction: Direction::Up,
        name: "1_a".into(),
        done: vec!["c".into()],
        running: None,
        tried: None,
        script: None,
    };
    let half = MigrationRow {
        version: version(1),
        run_on: None,
        recorded: None,
        journal: Some(journal),
    };
    let refused = plan_apply(
        &set(&[2]),
        std::slice::from_ref(&half),
        &ApplyRequest::default(),
    )
    .unwrap_err();
    assert!(
        refused.to_string().contains("does not carry it")
            && refused.to_string().contains("starts over"),
        "{refused}"
    );
    let assessment = assess(&set(&[2]), std::slice::from_ref(&half));
    assert_eq!(
        (assessment.state, assessment.problems.len()),
        (SchemaState::Diverged, 1)
    );
    assert_eq!(
        (
            assessment.problems[0].reason,
            assessment.problems[0].blocking
        ),
        ("HALF_APPLIED", true)
    );
    // With nothing to apply it is told, and nothing is in the way of what others wait for.
    let rows = [half, applied(&[2]).remove(0)];
    assert!(
        plan_apply(&set(&[2]), &rows, &ApplyRequest::default())
            .unwrap()
            .steps
            .is_empty()
    );
    let assessment = assess(&set(&[2]), &rows);
    assert_eq!(
        (assessment.state, assessment.problems[0].blocking),
        (SchemaState::Current, false)
    );
}
