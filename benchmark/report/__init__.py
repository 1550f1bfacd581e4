"""From rows to tables and figures, without torch."""
