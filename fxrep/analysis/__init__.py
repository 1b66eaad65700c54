"""What is known of a program: constants, ranks, aliases and writes, linear forms and what they cost."""
