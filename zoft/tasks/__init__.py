"""What people fine-tune for: prompts, data, and where real models and data come from."""
