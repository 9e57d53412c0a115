"""RTE: does one sentence follow from another (Dagan et al. 2005 and later), with MeZO's prompt.

Labels, of SuperGLUE's card: 0 entailment, 1 not entailment.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

SPEC = TaskSpec(
    PromptedTask('{premise}\nDoes this mean that "{hypothesis}" is true? Yes or No?\n', ("Yes", "No")),
    dataset="aps/super_glue",
    dataset_config_name="rte",
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
