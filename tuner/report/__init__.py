"""Report: what people are shown of the database: how a winner was found, plots and pages."""
