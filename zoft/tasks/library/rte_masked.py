"""RTE for masked language models: does one sentence follow from another (Dagan et al. 2005 and later).

The prompt is LM-BFF's (Gao et al. 2021, arXiv 2012.15723), which MeZO uses. Labels, of SuperGLUE's card: 0 entailment,
1 not entailment.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec
from zoft.tasks.wording import as_one_sentence

SPEC = TaskSpec(
    PromptedTask("{premise} ? [MASK] , {hypothesis}", ("Yes", "No")),
    dataset="aps/super_glue",
    dataset_config_name="rte",
    prepare=as_one_sentence,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
