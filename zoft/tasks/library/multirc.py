"""MultiRC: is this an answer to a question about a paragraph (Khashabi et al. 2018), with MeZO's prompt.

Labels, of SuperGLUE's card: 0 false, 1 true.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

SPEC = TaskSpec(
    PromptedTask(
        '{paragraph}\nQuestion: {question}\nI found this answer "{answer}". Is that correct? Yes or No?\n',
        ("No", "Yes"),
    ),
    dataset="aps/super_glue",
    dataset_config_name="multirc",
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
