//! When a job that waits for jobs may start, and when it never can.

use crate::id::{JobId, Member};
use crate::job::{Dependency, JobState, Trigger};
use crate::record::{GroupRecord, JobRecord, Tally};

/// How the jobs that one dependency names stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many there are; 0: not known yet.
    pub total: u64,
    /// Completed.
    pub succeeded: u64,
    /// Failed or stopped.
    pub failed: u64,
}

/// Whether the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may start.
    Open,
    /// Not yet.
    Waiting,
    /// Its trigger can never come true, because of this job.
    Never(JobId),
}

impl Standing {
    /// How what `on` names stands, by the records of its group and, for a member of an array, of that member.
    #[must_use]
    pub fn of(on: JobId, group: &GroupRecord, member: Option<&JobRecord>) -> Self {
        let Some(submitted) = &group.submitted else { return Self::default() };
        match on.member {
            Member::Only => Self::of_tally(submitted.spec.len(), group.tally),
            Member::Index(_) => {
                let state = member.map_or(JobState::Queued, JobRecord::state);
                let one = |is: bool| u64::from(is);
                Self {
                    total: 1,
                    succeeded: one(state == JobState::Completed),
                    failed: one(matches!(state, JobState::Failed | JobState::Stopped)),
                }
            }
        }
    }

    fn of_tally(total: u64, tally: Tally) -> Self {
        Self { total, succeeded: tally.completed.into(), failed: (tally.failed + tally.stopped).into() }
    }

    /// Whether all of them have.
    #[must_use]
    pub fn has_ended(self) -> bool {
        self.total > 0 && self.ended() == self.total
    }

    fn ended(self) -> u64 {
        self.succeeded + self.failed
    }
}

/// Weighs all dependencies of a job: for each trigger that occurs, *all* and *one* range over every
/// dependency that names it; all the triggers must come true.
#[must_use]
pub fn gate(dependencies: &[(Dependency, Standing)]) -> Gate {
    let mut triggers: Vec<Trigger> = dependencies.iter().map(|(dependency, _)| dependency.trigger).collect();
    triggers.sort_unstable();
    triggers.dedup();
    let mut waiting = false;
    for trigger in triggers {
        let named: Vec<(JobId, Standing)> = dependencies
            .iter()
            .filter(|(dependency, _)| dependency.trigger == trigger)
            .map(|&(dependency, standing)| (dependency.on, standing))
            .collect();
        match weigh(trigger, &named) {
            Gate::Open => {}
            Gate::Waiting => waiting = true,
            never @ Gate::Never(_) => return never,
        }
    }
    if waiting { Gate::Waiting } else { Gate::Open }
}

fn weigh(trigger: Trigger, named: &[(JobId, Standing)]) -> Gate {
    let known = |standing: &Standing| standing.total > 0;
    let all = |hit: &dyn Fn(Standing) -> u64, miss: &dyn Fn(Standing) -> u64| {
        if let Some((on, _)) = named.iter().find(|(_, standing)| miss(*standing) > 0) {
            Gate::Never(*on)
        } else if named.iter().all(|(_, standing)| known(standing) && hit(*standing) == standing.total) {
            Gate::Open
        } else {
            Gate::Waiting
        }
    };
    let one = |hit: &dyn Fn(Standing) -> u64| {
        if named.iter().any(|(_, standing)| hit(*standing) > 0) {
            Gate::Open
        } else if named.iter().all(|(_, standing)| known(standing) && standing.ended() == standing.total) {
            Gate::Never(named[0].0)
        } else {
            Gate::Waiting
        }
    };
    match trigger {
        Trigger::AllSucceeded => all(&|standing| standing.succeeded, &|standing| standing.failed),
        Trigger::AllFailed => all(&|standing| standing.failed, &|standing| standing.succeeded),
        Trigger::AllDone => all(&Standing::ended, &|_| 0),
        Trigger::OneSucceeded => one(&|standing| standing.succeeded),
        Trigger::OneFailed => one(&|standing| standing.failed),
        Trigger::OneDone => one(&Standing::ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GroupId;

    fn on(id: u8, trigger: Trigger, total: u64, succeeded: u64, failed: u64) -> (Dependency, Standing) {
        let job = JobId::only(GroupId([id; 16]));
        (Dependency { on: job, trigger }, Standing { total, succeeded, failed })
    }

    fn never(id: u8) -> Gate {
        Gate::Never(JobId::only(GroupId([id; 16])))
    }

    #[test]
    fn each_trigger_opens_waits_and_gives_up() {
        use Trigger::{AllDone, AllFailed, AllSucceeded, OneDone, OneFailed, OneSucceeded};
        for (trigger, succeeded, failed, expected) in [
            (AllSucceeded, 3, 0, Gate::Open),
            (AllSucceeded, 2, 0, Gate::Waiting),
            (AllSucceeded, 2, 1, never(1)),
            (AllFailed, 0, 3, Gate::Open),
            (AllFailed, 1, 1, never(1)),
            (AllDone, 1, 2, Gate::Open),
            (AllDone, 1, 1, Gate::Waiting),
            (OneSucceeded, 1, 0, Gate::Open),
            (OneSucceeded, 0, 2, Gate::Waiting),
            (OneSucceeded, 0, 3, never(1)),
            (OneFailed, 0, 1, Gate::Open),
            (OneFailed, 3, 0, never(1)),
            (OneDone, 0, 1, Gate::Open),
            (OneDone, 0, 0, Gate::Waiting),
        ] {
            assert_eq!(gate(&[on(1, trigger, 3, succeeded, failed)]), expected, "{trigger:?} {succeeded} {failed}");
        }
    }

    #[test]
    fn triggers_of_one_job_must_all_come_true() {
        let both = [on(1, Trigger::AllSucceeded, 1, 1, 0), on(2, Trigger::OneDone, 1, 0, 0)];
        assert_eq!(gate(&both), Gate::Waiting);
        let one_of_two = [on(1, Trigger::OneSucceeded, 1, 0, 1), on(2, Trigger::OneSucceeded, 1, 1, 0)];
        assert_eq!(gate(&one_of_two), Gate::Open);
    }

    #[test]
    fn what_is_not_known_yet_waits() {
        assert_eq!(gate(&[on(1, Trigger::AllDone, 0, 0, 0)]), Gate::Waiting);
        assert_eq!(gate(&[]), Gate::Open);
    }
}
