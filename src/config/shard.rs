//! The shard that a task of an engine for many machines moves.

use super::{
    Environment,
    value::{ShardSpec, Text, parsed},
};
use crate::model::{Error, Origin, Result, Shard};

/// What an engine tells its tasks.
struct Engine {
    title: &'static str,
    /// The variable with the number of the task.
    index: &'static str,
    /// The variable with the number of tasks, and what to do if it is not set.
    count: &'static str,
    remedy: &'static str,
    /// The variables with the numbers of the first and the last task, if tasks can be numbered otherwise than from 0 without
    /// gaps.
    numbers: Option<[&'static str; 2]>,
}

const ENGINES: [Engine; 3] = [
    Engine {
        title: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        count: "JOB_COMPLETIONS",
        remedy: "set JOB_COMPLETIONS in the manifest to the number of completions of the Job",
        numbers: None,
    },
    Engine {
        title: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        count: "SLURM_ARRAY_TASK_COUNT",
        remedy: "submit it as an array: sbatch --array=0-3",
        numbers: Some(["SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX"]),
    },
    Engine {
        title: "AWS Batch",
        index: "AWS_BATCH_JOB_ARRAY_INDEX",
        count: "AWS_BATCH_JOB_ARRAY_SIZE",
        // AWS Batch sets both, and reserves names that begin so.
        remedy: "submit it as an array job: --array-properties size=4",
        numbers: None,
    },
];

/// The shard that an option names.
///
/// # Errors
/// It is invalid, or is to be found out where no engine tells it.
pub(super) fn resolve(option: Option<Text<ShardSpec>>, environment: &Environment) -> Result<Option<Shard>> {
    let Some(text) = option else { return Ok(None) };
    let origin = text.origin.clone();
    match parsed(Some(text))? {
        None => Ok(None),
        Some(ShardSpec::Of(shard)) => Ok(Some(shard)),
        Some(ShardSpec::Auto) => of_task(&origin, environment).map(Some),
    }
}

fn of_task(origin: &Origin, environment: &Environment) -> Result<Shard> {
    for engine in &ENGINES {
        if let Some(index) = number(engine.index, origin, environment)? {
            return engine.shard(index, origin, environment);
        }
    }
    let names: Vec<String> = ENGINES
        .iter()
        .map(|engine| format!("{} ({})", engine.index, engine.title))
        .collect();
    let error: Error = origin.error(&format!(
        "no engine says which shard this is: none of {} is set",
        names.join(", ")
    ));
    Err(error.with_remedy("write the shard: --shard 0/4"))
}

/// The number in a variable, if it is set.
fn number(name: &str, origin: &Origin, environment: &Environment) -> Result<Option<u32>> {
    let Some(text) = environment.process_variable(name) else {
        return Ok(None);
    };
    let number = text.expose().trim().parse();
    number
        .map(Some)
        .map_err(|_| origin.error(&format!("the variable {name} is no number")))
}

impl Engine {
    /// The shard of the task with this number.
    fn shard(&self, index: u32, origin: &Origin, environment: &Environment) -> Result<Shard> {
        let number = |name| number(name, origin, environment);
        let Some(count) = number(self.count)? else {
            let message = format!(
                "{} sets {}, but {} is not set",
                self.title, self.index, self.count
            );
            return Err(origin.error(&message).with_remedy(self.remedy));
        };
        let [first, last] = match self.numbers {
            Some([first, last]) => [number(first)?, number(last)?],
            None => [None, None],
        };
        let first = first.unwrap_or(0);
        let expected_last = first.saturating_add(count).saturating_sub(1);
        // One task that is submitted again, or an array with gaps, does not show how many shards there are.
        let problem = match last {
            Some(last) if last != expected_last => {
                Some(format!("but the tasks are numbered from {first} to {last}"))
            }
            _ if count == 1 && first > 0 => Some(format!(
                "but the task has the number {first}, so it may be one of several shards"
            )),
            _ => None,
        };
        if let Some(problem) = problem {
            let message = format!("{} is {count}, {problem}", self.count);
            return Err(origin.error(&message).with_remedy(
                "number the tasks without gaps, as in --array=0-3; to move one shard again, write it: --shard 2/4",
            ));
        }
        let shard = index
            .checked_sub(first)
            .and_then(|index| Shard::new(index, count));
        shard.ok_or_else(|| {
            let message = format!(
                "{} is {index}, but {count} tasks are numbered from {first} to {expected_last}",
                self.index
            );
            origin
                .error(&message)
                .with_remedy("number the tasks without gaps")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto<const N: usize>(variables: [(&str, &str); N]) -> Result<String, String> {
        let environment = Environment::with_process(variables);
        let shard = resolve(Some("auto".to_owned().into()), &environment);
        shard
            .map(|shard| shard.unwrap().to_string())
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn the_share_of_a_task_comes_from_its_engine() {
        assert_eq!(
            auto([("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "4")]).unwrap(),
            "2/4"
        );
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_MIN", "5"),
            ("SLURM_ARRAY_TASK_MAX", "7"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
        ];
        assert_eq!(auto(slurm).unwrap(), "2/3");
        let batch = [
            ("AWS_BATCH_JOB_ARRAY_INDEX", "0"),
            ("AWS_BATCH_JOB_ARRAY_SIZE", "2"),
        ];
        assert_eq!(auto(batch).unwrap(), "0/2");
    }

    /// The shard of a task of a Slurm array.
    fn of_array(task: &str, min: &str, max: &str, count: &str) -> Result<String, String> {
        auto([
            ("SLURM_ARRAY_TASK_ID", task),
            ("SLURM_ARRAY_TASK_MIN", min),
            ("SLURM_ARRAY_TASK_MAX", max),
            ("SLURM_ARRAY_TASK_COUNT", count),
        ])
    }

    #[test]
    fn an_array_of_slurm_has_no_gaps_and_is_not_one_task_of_another() {
        assert_eq!(of_array("0", "0", "0", "1").unwrap(), "0/1");
        assert_eq!(of_array("1", "1", "4", "4").unwrap(), "0/4");
        assert_eq!(of_array("4", "1", "4", "4").unwrap(), "3/4");
        // --array=0-6:2, --array=0,1,5 and --array=2
        for (task, min, max, count, what) in [
            ("2", "0", "6", "4", "is 4, but the tasks are numbered from 0 to 6"),
            ("0", "0", "5", "3", "is 3, but the tasks are numbered from 0 to 5"),
            ("2", "2", "2", "1", "is 1, but the task has the number 2"),
        ] {
            let error = of_array(task, min, max, count).unwrap_err();
            assert!(
                error.contains(&format!("SLURM_ARRAY_TASK_COUNT {what}")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_task_without_a_number_is_an_error_that_names_the_variable() {
        for (error, what) in [
            (auto([]), "none of JOB_COMPLETION_INDEX (Kubernetes)"),
            (
                auto([("JOB_COMPLETION_INDEX", "2")]),
                "JOB_COMPLETIONS is not set",
            ),
            (
                auto([("AWS_BATCH_JOB_ARRAY_INDEX", "1")]),
                "AWS_BATCH_JOB_ARRAY_SIZE is not set",
            ),
            (
                auto([("JOB_COMPLETION_INDEX", "4"), ("JOB_COMPLETIONS", "4")]),
                "JOB_COMPLETION_INDEX is 4, but 4 tasks are numbered from 0 to 3",
            ),
            (
                auto([("SLURM_ARRAY_TASK_ID", "x"), ("SLURM_ARRAY_TASK_COUNT", "4")]),
                "the variable SLURM_ARRAY_TASK_ID is no number",
            ),
        ] {
            let error = error.unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
