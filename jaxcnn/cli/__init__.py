"""The `jaxcnn` command and what all command lines share: flags, signals, exit codes and one-line errors."""
