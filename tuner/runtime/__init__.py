"""Runtime: a layer that serves calls, on CPU cores or on a GPU."""
