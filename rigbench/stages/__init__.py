"""One file per probe that a command can ask for: its options from words, one isolated run, its record completed."""
