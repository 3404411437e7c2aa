"""What every wing builds on, and nothing of translation: errors, files, devices, processes, signals, progress, torchrun."""
