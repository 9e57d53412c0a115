"""SST-2: is a sentence of a film review negative or positive (Socher et al. 2013), with MeZO's prompt."""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

SPEC = TaskSpec(
    PromptedTask("{sentence} It was", ("terrible", "great")),
    dataset="nyu-mll/glue",
    dataset_config_name="sst2",
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
