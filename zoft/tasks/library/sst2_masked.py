"""SST-2 for masked language models: a sentence of a film review, negative or positive (Socher et al. 2013).

The prompt is LM-BFF's (Gao et al. 2021, arXiv 2012.15723), which MeZO uses. Labels, of the data set's card: 0 negative,
1 positive.
"""

from zoft.tasks.library.sst2 import prepare
from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

SPEC = TaskSpec(
    PromptedTask("{sentence} It was [MASK] .", ("terrible", "great")),
    dataset="nyu-mll/glue",
    dataset_config_name="sst2",
    prepare=prepare,
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
