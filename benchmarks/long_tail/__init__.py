"""Long-tailed CIFAR-10: how fast and how far each optimizer learns, tuned alike."""
