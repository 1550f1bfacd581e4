"""From a config to labelled jobs and rows."""
