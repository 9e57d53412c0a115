"""CommitmentBank: does a clause follow from a text (de Marneffe et al. 2019), with MeZO's prompt.

Labels, of SuperGLUE's card: 0 entailment, 1 contradiction, 2 neutral.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

SPEC = TaskSpec(
    PromptedTask('Suppose {premise} Can we infer that "{hypothesis}"? Yes, No, or Maybe?\n', ("Yes", "No", "Maybe")),
    dataset="aps/super_glue",
    dataset_config_name="cb",
    max_train_samples=1000,
    max_dev_samples=100,  # of 250 training rows; MeZO takes 100, too
    max_eval_samples=1000,
)
