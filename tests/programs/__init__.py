"""Random programs for the property tests: a description, a module that runs it, and what to expect."""
