"""What everything stands on: records, sums over devices, precision, files, and the words of messages."""
