"""Held-out scores before and after fine-tuning."""
