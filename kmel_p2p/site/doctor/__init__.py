"""What `kmel-peer doctor` examines: one line for each thing that has to be right, with what to do where it is not."""
