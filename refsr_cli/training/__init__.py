"""What a training is made of: a run that can stop and go on, its clock, its interrupts."""
