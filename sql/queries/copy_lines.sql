copy {target} ({columns}) from stdin (format binary)
