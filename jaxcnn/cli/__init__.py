"""What command lines are made of, and the `jaxcnn` command: the flags that they share, signals, exit codes and errors in one line."""
