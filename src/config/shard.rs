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
    /// The variable with the number of the first task, if that may be another than 0.
    first: Option<&'static str>,
}

const ENGINES: [Engine; 3] = [
    Engine {
        title: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        count: "JOB_COMPLETIONS",
        remedy: "set JOB_COMPLETIONS in the manifest to the number of completions of the Job",
        first: None,
    },
    Engine {
        title: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        count: "SLURM_ARRAY_TASK_COUNT",
        remedy: "submit it as an array: sbatch --array=0-3",
        first: Some("SLURM_ARRAY_TASK_MIN"),
    },
    Engine {
        title: "AWS Batch",
        index: "AWS_BATCH_JOB_ARRAY_INDEX",
        count: "AWS_BATCH_JOB_ARRAY_SIZE",
        remedy: "set AWS_BATCH_JOB_ARRAY_SIZE in the job definition to the size of the array",
        first: None,
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
    let number = |name: &str| -> Result<Option<u32>> {
        let Some(text) = environment.process_variable(name) else {
            return Ok(None);
        };
        let number = text.expose().trim().parse();
        number
            .map(Some)
            .map_err(|_| origin.error(&format!("the variable {name} is no number")))
    };
    for engine in &ENGINES {
        let Some(index) = number(engine.index)? else {
            continue;
        };
        let Some(count) = number(engine.count)? else {
            let message = format!(
                "{} sets {}, but {} is not set",
                engine.title, engine.index, engine.count
            );
            return Err(origin.error(&message).with_remedy(engine.remedy));
        };
        let first = engine.first.map(number).transpose()?.flatten().unwrap_or(0);
        let shard = index
            .checked_sub(first)
            .and_then(|index| Shard::new(index, count));
        return shard.ok_or_else(|| {
            let message = format!(
                "{} is {index}, but {count} tasks are numbered from {first} to {}",
                engine.index,
                first.saturating_add(count).saturating_sub(1)
            );
            origin
                .error(&message)
                .with_remedy("number the tasks without gaps")
        });
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
            ("SLURM_ARRAY_TASK_COUNT", "3"),
        ];
        assert_eq!(auto(slurm).unwrap(), "2/3");
        let batch = [
            ("AWS_BATCH_JOB_ARRAY_INDEX", "0"),
            ("AWS_BATCH_JOB_ARRAY_SIZE", "2"),
        ];
        assert_eq!(auto(batch).unwrap(), "0/2");
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
