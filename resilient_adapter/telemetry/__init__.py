"""What the adapter did, told to listeners and to the log."""
