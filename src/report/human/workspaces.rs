//! The workspaces of a run: a line for each, or sums if there are many, of which there may be thousands.

use std::collections::BTreeMap;

use super::phrases;
use crate::{
    model::{Side, Workspace},
    report::{
        CountEvent, PlanEvent, VerifyEvent,
        style::{grouped, grouped_of},
    },
};

/// With more workspaces than this, sums are printed.
const MOST_LISTED: usize = 6;

/// The workspaces of a run, and those that were counted so far.
#[derive(Default)]
pub(super) struct Workspaces {
    names: Vec<Workspace>,
    /// Workspaces and records of each side.
    counted: BTreeMap<Side, (usize, u64)>,
}

impl Workspaces {
    /// The workspaces of a plan, none of them counted.
    pub(super) fn of(plan: &PlanEvent) -> Self {
        Self {
            names: plan.workspaces.iter().map(|pair| pair.from.clone()).collect(),
            counted: BTreeMap::new(),
        }
    }

    /// Whether sums are printed.
    pub(super) fn are_many(&self) -> bool {
        self.names.len() > MOST_LISTED
    }

    /// The number of workspaces.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The number of a workspace, from 1.
    pub(super) fn number(&self, workspace: &Workspace) -> Option<usize> {
        let at = self.names.iter().position(|other| other == workspace);
        at.map(|at| at + 1)
    }

    /// Whether a workspace that was verified gets a line. Of many, only those with differences do.
    pub(super) fn has_line(&self, verify: &VerifyEvent) -> bool {
        verify.complete && (!self.are_many() || verify.numbers.differences() > 0)
    }

    /// The line for a count. With many workspaces, there is one for each side, when all of them are counted.
    pub(super) fn count(&mut self, count: &CountEvent) -> Option<String> {
        if !self.are_many() {
            return Some(phrases::count(count));
        }
        let (workspaces, records) = self.counted.entry(count.side).or_default();
        *workspaces += 1;
        *records += count.records;
        (*workspaces == self.names.len()).then(|| {
            format!(
                "Counted the {}: {} in {} workspaces",
                count.side,
                grouped_of(*records, "record"),
                grouped(self.names.len() as u64)
            )
        })
    }
}
