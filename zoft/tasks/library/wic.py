"""WiC: has a word the same meaning in two sentences (Pilehvar and Camacho-Collados 2019), with MeZO's prompt.

Labels, of SuperGLUE's card: 0 false, 1 true.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

SPEC = TaskSpec(
    PromptedTask(
        'Does the word "{word}" have the same meaning in these two sentences? Yes, No?\n{sentence1}\n{sentence2}\n',
        ("No", "Yes"),
    ),
    dataset="aps/super_glue",
    dataset_config_name="wic",
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
