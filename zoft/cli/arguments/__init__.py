"""The command line's own settings, a file for each group. All others are fields of ``transformers.TrainingArguments``.

Each field is a flag and a YAML key of the same name. Nothing here imports torch or transformers, so that ``--help``
stays quick.
"""
