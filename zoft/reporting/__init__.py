"""Tables and plots for documents. matplotlib is imported here and nowhere else, and only to draw."""
