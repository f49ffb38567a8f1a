//! A part of a job, as the job asks for it: what it does is its own, all else it has from the job.

use std::collections::BTreeMap;

use proto::job::{GroupSpec, IndexRanges};
use proto::{ByteSize, JobId, NodeId, ValueKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ErrorWord;
use super::submit::{SPEC_BYTES_MAX, check_command, check_text, check_variable};

/// Values that one submission may say that it reads.
pub const READS_MAX: usize = 16;

/// `POST /jobs/{id}/parts`: a job that runs submits a part of itself. Directory, environment, variables, secrets, what is
/// asked of a node and all else are the job's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PartRequest {
    /// For people, and for the job to find it again.
    pub name: String,
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// Further variables.
    pub env: BTreeMap<String, String>,
    /// Keys of cached values that it will read, the largest first: where they lie is preferred.
    pub reads: Vec<String>,
}

impl PartRequest {
    /// The specification of a part of `parent`, whose own is `spec`.
    ///
    /// # Errors
    /// The first thing found to be wrong, with what to do.
    pub fn to_spec(
        &self,
        parent: JobId,
        spec: &GroupSpec,
        near: BTreeMap<NodeId, ByteSize>,
    ) -> Result<GroupSpec, ErrorWord> {
        check_command(&self.command)?;
        check_text("the part's name", &self.name)?;
        for key in self.env.keys() {
            check_variable(key)?;
        }
        let mut part = GroupSpec {
            name: self.name.clone(),
            command: self.command.clone(),
            array: IndexRanges::default(),
            after: Vec::new(),
            // A failure of a part is its job's to judge.
            retries: 0,
            parent: Some(parent),
            near,
            ..spec.clone()
        };
        part.env.extend(self.env.clone());
        let bytes: usize = part.env.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > SPEC_BYTES_MAX {
            let message = format!("the variables have more than {}", ByteSize(SPEC_BYTES_MAX as u64));
            return Err(ErrorWord::bad_input(message, "hand large values over as cached values"));
        }
        Ok(part)
    }

    /// The values that it reads.
    ///
    /// # Errors
    /// Too many, or what is no key.
    pub fn reads(&self) -> Result<Vec<ValueKey>, ErrorWord> {
        if self.reads.len() > READS_MAX {
            let message = format!("more than {READS_MAX} values are named");
            return Err(ErrorWord::bad_input(message, "name the largest ones"));
        }
        let key = |text: &String| {
            let wrong = |_| ErrorWord::bad_input(format!("{text:?} is not a key"), "give 64 lower-case hex digits");
            text.parse().map_err(wrong)
        };
        self.reads.iter().map(key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_part_has_all_from_its_job_but_what_it_does() {
        let secrets = BTreeSet::from(["TOKEN".to_owned()]);
        let mut spec = GroupSpec { secrets, retries: 3, ..GroupSpec::new("ada", "vision", vec!["main".to_owned()]) };
        spec.env.insert("SEED".to_owned(), "7".to_owned());
        let parent = JobId::only(proto::GroupId([7; 16]));
        let near = BTreeMap::from([(NodeId([2; 32]), ByteSize(1 << 30))]);
        let env = BTreeMap::from([("STAGE".to_owned(), "train".to_owned())]);
        let request =
            PartRequest { name: "train".to_owned(), command: vec!["python".to_owned()], env, ..Default::default() };
        let part = request.to_spec(parent, &spec, near.clone()).expect("sound");
        let mut expected = GroupSpec {
            name: "train".to_owned(),
            command: vec!["python".to_owned()],
            retries: 0,
            parent: Some(parent),
            near,
            ..spec.clone()
        };
        expected.env.insert("STAGE".to_owned(), "train".to_owned());
        assert_eq!(part, expected);
        let reads = vec!["0".repeat(64); READS_MAX + 1];
        assert!(PartRequest { reads, ..request.clone() }.reads().is_err(), "more than are looked at");
        assert!(PartRequest { reads: vec!["x".to_owned()], ..request.clone() }.reads().is_err());
        assert!(PartRequest { command: Vec::new(), ..request }.to_spec(parent, &spec, BTreeMap::new()).is_err());
    }
}
