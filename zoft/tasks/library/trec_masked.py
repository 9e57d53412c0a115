"""TREC for masked language models: what kind of thing a question asks for (Voorhees and Tice 2000; Li and Roth 2002).

The prompt is LM-BFF's (Gao et al. 2021, arXiv 2012.15723), which MeZO uses. Labels are the six coarse ones, by name.
"""

from zoft.tasks.prompted import PromptedTask
from zoft.tasks.spec import TaskSpec

WORDS = {
    "DESC": "Description",
    "ENTY": "Entity",
    "ABBR": "Expression",
    "HUM": "Human",
    "LOC": "Location",
    "NUM": "Number",
}

SPEC = TaskSpec(
    # The space in front, which RoBERTa's mask token takes in, has the words tokenised as in mid-sentence.
    PromptedTask(" [MASK] : {text}", tuple(WORDS.values()), tuple(WORDS), "label_coarse_original"),
    dataset="SetFit/TREC-QC",
    max_train_samples=1000,
    max_dev_samples=500,
    max_eval_samples=1000,
)
