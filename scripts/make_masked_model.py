"""Turn the packaged sentence encoder into a masked language model, for machines without a model hub.

    python scripts/make_masked_model.py runs/minilm-masked

The encoder comes without the layer that guesses a masked word. This one reads film reviews (IMDB's, without their
labels) and learns to guess: its own embeddings of words serve as that layer's weights. It is for trying out what
recipes/masked.yaml does with a pretrained masked model, such as FacebookAI/roberta-large.
"""

from __future__ import annotations

import sys
import tempfile

import datasets
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from zoft.tasks.assets import load_packaged_dataset, resolve_model

ROWS = 8000
LENGTH = 48  # tokens
STEPS = 400


def main(folder: str, steps: int = STEPS) -> None:
    """Write the folder."""
    torch.manual_seed(0)
    source = resolve_model("packaged:minilm-l6")
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForMaskedLM.from_pretrained(source)
    # The head has a square layer of its own, which is new: better as the identity than at random.
    torch.nn.init.eye_(model.cls.predictions.transform.dense.weight)

    rows = datasets.Dataset.from_list(load_packaged_dataset("imdb")).shuffle(seed=0).select(range(ROWS))
    rows = rows.map(
        lambda row: tokenizer(row["text"], truncation=True, max_length=LENGTH), remove_columns=rows.column_names
    )
    with tempfile.TemporaryDirectory() as scratch:
        Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=16,
                learning_rate=5e-4,
                warmup_steps=steps // 20,
                lr_scheduler_type="linear",
                logging_steps=20,
                save_strategy="no",
                report_to="none",
                seed=0,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, seed=0),
        ).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"a masked language model in {folder}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
