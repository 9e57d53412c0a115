"""What one training step costs beside plain inference, in time, memory and energy."""
