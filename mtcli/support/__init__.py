"""What every wing stands on and nothing of translation: errors, files, devices, processes, signals, progress, torchrun."""
