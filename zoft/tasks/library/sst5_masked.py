"""SST-5 for masked language models: how good a film review finds the film (Socher et al. 2013).

The prompt is LM-BFF's (Gao et al. 2021, arXiv 2012.15723), which MeZO uses. Labels, of the data set's column
``label_text``: from 0, very negative, to 4, very positive.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

SPEC = TaskSpec(
    PromptedTask("{text} It was [MASK] .", ("terrible", "bad", "okay", "good", "great")),
    dataset="SetFit/sst5",
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
