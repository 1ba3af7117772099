"""Space: what may be tuned: templates, their parameters and restrictions, and its points, the variants."""
