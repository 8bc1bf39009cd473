"""The command line, one file per subcommand. A command declares what it reads and writes and calls one library function."""
