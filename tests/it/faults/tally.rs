//! What a scenario did and found: one row of the table, one object of the JSON.

use std::{collections::BTreeMap, time::Instant};

use serde_json::{Value, json};

/// What went wrong. The key keeps one mistake from being counted at every look.
#[derive(Clone, Debug)]
pub enum Finding {
    /// An acknowledged step is not there.
    Lost { key: String, text: String },
    /// A step ran twice.
    Doubled { key: String, text: String },
    /// Ledger, Diesel table and catalog differ, or a request does not get to its end.
    Disagreement { key: String, text: String },
}

impl Finding {
    pub fn lost(key: impl ToString, text: impl Into<String>) -> Self {
        Self::Lost {
            key: key.to_string(),
            text: text.into(),
        }
    }

    pub fn doubled(key: impl ToString, text: impl Into<String>) -> Self {
        Self::Doubled {
            key: key.to_string(),
            text: text.into(),
        }
    }

    pub fn disagreement(key: impl ToString, text: impl Into<String>) -> Self {
        Self::Disagreement {
            key: key.to_string(),
            text: text.into(),
        }
    }
}

pub struct Tally {
    scenario: String,
    started: Instant,
    /// Requests and other things that had to get to their end.
    pub tries: usize,
    pub faults: usize,
    lost: BTreeMap<String, String>,
    doubled: BTreeMap<String, String>,
    disagreements: BTreeMap<String, String>,
    /// What nobody could know, each with the reason why.
    pub in_doubt: Vec<String>,
    /// What else is worth a line.
    pub notes: Vec<String>,
}

pub const HEADER: &str = "scenario                                              tries faults   \
    lost doubled disagreements in doubt seconds";

impl Tally {
    pub fn new(scenario: &str) -> Self {
        Self {
            scenario: scenario.into(),
            started: Instant::now(),
            tries: 0,
            faults: 0,
            lost: BTreeMap::new(),
            doubled: BTreeMap::new(),
            disagreements: BTreeMap::new(),
            in_doubt: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub fn found(&mut self, finding: Finding) {
        let (which, name, key, text) = match finding {
            Finding::Lost { key, text } => (&mut self.lost, "lost", key, text),
            Finding::Doubled { key, text } => (&mut self.doubled, "doubled", key, text),
            Finding::Disagreement { key, text } => {
                (&mut self.disagreements, "disagreement", key, text)
            }
        };
        which.entry(key).or_insert_with(|| {
            let text = format!("{name} after {} faults: {text}", self.faults);
            eprintln!("  {text}");
            text
        });
    }

    pub fn disagreement(&mut self, key: impl ToString, text: impl Into<String>) {
        self.found(Finding::disagreement(key, text));
    }

    pub fn failed(&self) -> bool {
        self.lost.len() + self.doubled.len() + self.disagreements.len() > 0
    }

    /// Something to say while a long scenario runs.
    pub fn progress(&self, of: usize) {
        if of >= 50 && self.faults.is_multiple_of(25) {
            eprintln!(
                "  {}: {} of {of}, {:.0} s",
                self.scenario,
                self.faults,
                self.started.elapsed().as_secs_f64()
            );
        }
    }

    pub fn print(&self) {
        println!(
            "{:<53} {:>5} {:>6} {:>6} {:>7} {:>13} {:>8} {:>7.1}",
            self.scenario,
            self.tries,
            self.faults,
            self.lost.len(),
            self.doubled.len(),
            self.disagreements.len(),
            self.in_doubt.len(),
            self.started.elapsed().as_secs_f64()
        );
        let wrong = [&self.lost, &self.doubled, &self.disagreements]
            .into_iter()
            .flat_map(BTreeMap::values);
        wrong.for_each(|text| println!("    {text}"));
        self.in_doubt
            .iter()
            .for_each(|text| println!("    in doubt: {text}"));
        self.notes.iter().for_each(|text| println!("    {text}"));
    }

    pub fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "tries": self.tries,
            "faults": self.faults,
            "lost": self.lost.len(),
            "doubled": self.doubled.len(),
            "disagreements": self.disagreements.len(),
            "in_doubt": self.in_doubt.len(),
            "seconds": (self.started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        })
    }
}

/// The totals, with the scenarios in a list.
pub fn json_of_all(scenarios: &[Value]) -> Value {
    let total = |key: &str| {
        scenarios
            .iter()
            .filter_map(|scenario| scenario[key].as_u64())
            .sum::<u64>()
    };
    json!({
        "tries": total("tries"),
        "faults": total("faults"),
        "lost": total("lost"),
        "doubled": total("doubled"),
        "disagreements": total("disagreements"),
        "in_doubt": total("in_doubt"),
        "scenarios": scenarios,
    })
}
