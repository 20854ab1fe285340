"""What the machine does while it trains, measured every few seconds beside the trainer's own metrics."""
