"""Routes: the end points of the service, one file for each kind of question."""
