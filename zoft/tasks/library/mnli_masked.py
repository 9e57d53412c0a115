"""MNLI for masked language models: does a sentence follow from another, or contradict it (Williams et al. 2018).

The prompt is LM-BFF's (Gao et al. 2021, arXiv 2012.15723), which MeZO uses. Labels, of GLUE's card: 0 entailment,
1 neutral, 2 contradiction.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec
from zoft.tasks.wording import as_one_sentence

SPEC = TaskSpec(
    PromptedTask("{premise} ? [MASK] , {hypothesis}", ("Yes", "Maybe", "No")),
    dataset="nyu-mll/glue",
    dataset_config_name="mnli",
    eval_split="validation_matched",
    prepare=as_one_sentence,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
