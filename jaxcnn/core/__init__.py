"""The base of all rooms: records, sums over devices, precision, files, and text for messages."""
