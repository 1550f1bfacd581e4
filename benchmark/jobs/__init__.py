"""What a job is, its key, and how one is run."""
